use super::*;

/// The published sizes: 1,235,814,400, 3,212,749,824 and 8,030,261,248.
#[test]
fn presets_have_the_published_sizes() {
    let parameters = PRESETS.map(|(_, preset)| preset.geometry().parameters());
    assert_eq!(parameters, [11_483_136, 88_300_032, 1_235_814_400, 3_212_749_824, 8_030_261_248]);
}

#[test]
fn names_are_read_as_they_are_written() {
    for (name, _) in PRESETS {
        for kind in KINDS {
            let text = format!("{name}:{}", kind.name());
            assert_eq!(text.parse::<SyntheticModel>().unwrap().to_string(), format!("synthetic:{text}"));
        }
        assert_eq!(name.parse::<SyntheticModel>().unwrap().to_string(), format!("synthetic:{name}:bf16"));
    }
    for name in ["", "llama", "llama-1b:", "llama-1b:q2_k", "grown-gpt2:bf16", "LLAMA-1B"] {
        let error = name.parse::<SyntheticModel>().unwrap_err();
        assert!(error.starts_with(&format!("synthetic:{name} is unknown")) && error.contains("llama-8b"), "{error}");
    }
}

/// Whatever their format, random weights are of one size: about 1/√inputs in the mean square, give or take.
#[test]
fn random_weights_keep_the_size_of_activations() {
    for kind in KINDS {
        let mut random = Random::new(kind);
        let wanted = Wanted { name: "w", outputs: &[64], inputs: 512, layout: crate::weights::Layout::Rows };
        let matrices = random.matrices(&Kernels, wanted).unwrap();
        let (mut squares, mut row) = (0.0, vec![0.0; 512]);
        for output in 0..64 {
            matrices[0].row(output, &mut row);
            squares += row.iter().map(|w| w * w).sum::<f32>() / 64.0;
        }
        assert!((0.1..4.0).contains(&squares), "{}: {squares}", kind.name());
    }
}

#[test]
fn a_width_that_a_format_cannot_have_is_refused() {
    let model: SyntheticModel = "nanogpt:q4_k".parse().unwrap();
    let SyntheticModel::Random(preset, dtype) = model else { panic!("{model}") };
    let error = random(&Kernels, preset, dtype).err().unwrap().to_string();
    assert!(error.contains("rows of 384, not a multiple of 256"), "{error}");
}
