//! A drafter without a model: it goes on as the text did when its last tokens stood in it before.
//!
//! Prompt lookup decoding (Saxena 2023), over prompt and output alike.

use speculative::TokenId;

/// The longest end of the text that is looked for.
const LONGEST: usize = 8;

/// Up to `gamma` tokens after `text`: what followed the latest place where the longest part of its end stands, up to 8 tokens.
/// Where that runs into the end itself, it goes on with what it has proposed. None where the last token is new.
pub(super) fn propose(text: &[TokenId], gamma: usize) -> Vec<TokenId> {
    let mut best = (0, 0);
    for end in (1..text.len()).rev() {
        let alike = text[..end].iter().rev().zip(text.iter().rev()).take(LONGEST).take_while(|(a, b)| a == b).count();
        if alike > best.0 {
            best = (alike, end);
        }
        if alike == LONGEST {
            break;
        }
    }
    match best {
        (0, _) => Vec::new(),
        (_, from) => text[from..].iter().copied().cycle().take(gamma).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: [TokenId; 0] = [];

    #[test]
    fn it_goes_on_as_the_text_did() {
        assert_eq!(propose(&[1, 2, 3, 4, 9, 2, 3], 3), [4, 9, 2]);
        // The longest end counts, not the latest one.
        assert_eq!(propose(&[7, 1, 2, 5, 3, 2, 6, 1, 2], 2), [5, 3]);
        assert_eq!(propose(&[3, 2, 6, 8, 2, 7, 1, 2], 1), [7], "of equals the latest");
        assert_eq!(propose(&[1, 2, 3], 4), NOTHING);
        assert_eq!(propose(&[5], 4), NOTHING);
        assert_eq!(propose(&[], 4), NOTHING);
    }

    #[test]
    fn what_repeats_is_repeated() {
        assert_eq!(propose(&[4, 5, 4, 5], 5), [4, 5, 4, 5, 4]);
        assert_eq!(propose(&[9, 9], 3), [9, 9, 9]);
    }
}
