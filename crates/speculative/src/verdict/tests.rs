use proptest::prelude::*;

use super::Verdict;

#[test]
fn the_first_difference_ends_it() {
    let choices = [7, 8, 1, 9];
    let verdict = Verdict::of(&[7, 8, 9], |row| choices[row]);
    assert_eq!(verdict, Verdict { accepted: 2, tokens: vec![7, 8, 1] });
}

#[test]
fn full_acceptance_yields_one_token_more_than_proposed() {
    let choices = [7, 8, 9];
    assert_eq!(Verdict::of(&[7, 8], |row| choices[row]), Verdict { accepted: 2, tokens: vec![7, 8, 9] });
}

#[test]
fn no_proposal_is_plain_decoding() {
    assert_eq!(Verdict::of(&[], |_| 5), Verdict { accepted: 0, tokens: vec![5] });
}

/// A proposal, and choices that often agree with it.
fn windows() -> impl Strategy<Value = (Vec<u32>, Vec<u32>)> {
    (0..12usize).prop_flat_map(|gamma| {
        (prop::collection::vec(0..3u32, gamma), prop::collection::vec(0..3u32, gamma + 1), 0..=gamma).prop_map(
            |(proposed, mut choices, agreed)| {
                choices[..agreed].copy_from_slice(&proposed[..agreed]);
                (proposed, choices)
            },
        )
    })
}

proptest! {
    #[test]
    fn accepted_is_the_longest_common_prefix((proposed, choices) in windows()) {
        let mut asked = Vec::new();
        let verdict = Verdict::of(&proposed, |row| {
            asked.push(row);
            choices[row]
        });
        let common = proposed.iter().zip(&choices).take_while(|(a, b)| a == b).count();
        prop_assert_eq!(verdict.accepted, common);
        prop_assert_eq!(&verdict.tokens, &choices[..=common]);
        prop_assert_eq!(asked, (0..=common).collect::<Vec<_>>());
    }
}
