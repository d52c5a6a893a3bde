use super::Logprobs;

#[test]
fn probabilities_add_up_to_one_and_come_in_order() {
    let logits = [0.5, 3.0, -1.0, 3.0, 2.0];
    let all = Logprobs::of(&logits, 5, 4, 5);
    let tokens: Vec<_> = all.top.iter().map(|(token, _)| *token).collect();
    assert_eq!(tokens, [1, 3, 4, 0, 2]);
    let sum: f64 = all.top.iter().map(|(_, logprob)| f64::from(*logprob).exp()).sum();
    assert!((sum - 1.0).abs() < 1e-6, "{sum}");
    assert_eq!(all.chosen, all.top[2].1);
    assert_eq!(Logprobs::of(&logits, 5, 4, 2).top, all.top[..2]);
}

/// ln softmax of (0, ln 3) is (−ln 4, ln 3 − ln 4).
#[test]
fn they_are_the_softmaxs_logarithms() {
    let row = Logprobs::of(&[0.0, 3.0_f32.ln()], 2, 0, 1);
    assert!((row.chosen + 4.0_f32.ln()).abs() < 1e-6, "{row:?}");
    assert!((row.top[0].1 - 0.75_f32.ln()).abs() < 1e-6, "{row:?}");
}

#[test]
fn masked_tokens_and_what_is_no_number_have_no_share() {
    let row = Logprobs::of(&[1.0, f32::NAN, 1.0, 9.0], 3, 1, 20);
    assert_eq!(row.chosen, f32::NEG_INFINITY);
    assert_eq!(row.top.len(), 3);
    assert!((row.top[0].1 - 0.5_f32.ln()).abs() < 1e-6);
    let overflown = Logprobs::of(&[f32::INFINITY, 0.0], 2, 0, 1);
    assert_eq!((overflown.chosen, overflown.top), (0.0, vec![(0, 0.0)]));
}
