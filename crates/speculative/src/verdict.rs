//! How much of a proposal stands.

use crate::TokenId;

#[cfg(test)]
mod tests;

/// The target's answer to one proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The length of the longest proposed prefix that equals the target's own choices, in tokens; under
    /// [`rejection`](crate::rejection) of the longest that passes its tests.
    pub accepted: usize,
    /// The tokens to commit, `accepted + 1` of them: all are the target's choices, or samples of its distribution; the last
    /// is the final token.
    pub tokens: Vec<TokenId>,
}

impl Verdict {
    /// The target's own choices, row by row, up to the first that differs from the proposal.
    ///
    /// `choose(row)` gives the target's choice at `row`, from 0 to `proposed.len()`; row i follows the committed tokens
    /// and the first i proposed ones. Rows are asked for in order, and none after the final token. Leviathan et al.
    /// 2023 (arXiv 2211.17192), algorithm 1, with equality of coupled choices as the test (Daliri et al. 2024,
    /// arXiv 2408.07978).
    pub fn of(proposed: &[TokenId], mut choose: impl FnMut(usize) -> TokenId) -> Verdict {
        let mut tokens = Vec::with_capacity(proposed.len() + 1);
        loop {
            let row = tokens.len();
            let choice = choose(row);
            tokens.push(choice);
            if proposed.get(row) != Some(&choice) {
                return Verdict { accepted: row, tokens };
            }
        }
    }
}
