//! What the owner of a model asks of it.

use speculative::TokenId;
use speculative::roofline::{Roofs, Work};

use crate::cost::Part;
use crate::{Description, Error, Geometry, KvCache};

/// A model that continues sequences: what the thread that owns it calls.
pub trait Decoder: Send + 'static {
    /// What the model says about itself.
    fn description(&self) -> &Description;

    /// An empty cache for one sequence.
    fn new_cache(&self) -> KvCache;

    /// One ragged forward: each sequence's tokens take the positions after those that its cache holds, and the cache
    /// holds them afterwards. Prefill, decoding, verification, and several sessions at once are this call.
    fn forward(&mut self, batch: &mut [Rows<'_>]) -> Result<Forward, Error>;

    /// Measures what the machine could do at best, for some 0.15 s. Nothing else should run meanwhile. None where a device
    /// does not let it be measured, for want of memory for example.
    fn measure_roofs(&mut self) -> Option<Roofs>;
}

/// One sequence's part in a forward.
#[derive(Debug)]
pub struct Rows<'a> {
    /// The positions before these rows.
    pub cache: &'a mut KvCache,
    /// One token for each row.
    pub tokens: &'a [TokenId],
    /// Logits are computed for `tokens[logits_from..]` only; `tokens.len()` for none.
    pub logits_from: usize,
}

impl<D: Decoder + ?Sized> Decoder for Box<D> {
    fn description(&self) -> &Description {
        (**self).description()
    }

    fn new_cache(&self) -> KvCache {
        (**self).new_cache()
    }

    fn forward(&mut self, batch: &mut [Rows<'_>]) -> Result<Forward, Error> {
        (**self).forward(batch)
    }

    fn measure_roofs(&mut self) -> Option<Roofs> {
        (**self).measure_roofs()
    }
}

/// A batch that was checked: what each sequence adds, and which rows' logits are wanted.
pub(crate) struct Batch {
    pub(crate) parts: Vec<Part>,
    /// Of all sequences.
    pub(crate) rows: usize,
    /// The numbers, among all rows, of those whose logits are wanted.
    pub(crate) wanted: Vec<usize>,
}

impl Batch {
    /// Of caches that `own` knows as its own, within their contexts and the vocabulary.
    pub(crate) fn new(geometry: &Geometry, batch: &[Rows<'_>], own: impl Fn(&KvCache) -> bool) -> Result<Batch, Error> {
        for (sequence, rows) in batch.iter().enumerate() {
            let (tokens, held) = (rows.tokens.len(), rows.cache.len());
            let Rows { cache, logits_from, .. } = rows;
            if cache.shape() != geometry.shape() || cache.context() != geometry.context || !own(cache) {
                return Err(Error::ForeignCache { sequence });
            }
            if held + tokens > geometry.context {
                return Err(Error::Overflow { sequence, held, tokens, context: geometry.context });
            }
            if *logits_from > tokens {
                return Err(Error::LogitsFrom { sequence, logits_from: *logits_from, tokens });
            }
            let vocab_size = geometry.vocab_size;
            if let Some(row) = rows.tokens.iter().position(|token| *token as usize >= vocab_size) {
                return Err(Error::Token { sequence, row, token: rows.tokens[row], vocab_size });
            }
        }
        let parts: Vec<Part> = batch.iter().map(part).collect();
        let (mut wanted, mut end) = (Vec::new(), 0);
        for part in &parts {
            end += part.rows;
            wanted.extend(end - part.logits..end);
        }
        Ok(Batch { parts, rows: end, wanted })
    }

    /// Rows of logits of each sequence.
    pub(crate) fn counts(&self) -> Vec<usize> {
        self.parts.iter().map(|part| part.logits).collect()
    }
}

fn part(rows: &Rows<'_>) -> Part {
    Part { held: rows.cache.len(), rows: rows.tokens.len(), logits: rows.tokens.len() - rows.logits_from }
}

/// What a forward gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Forward {
    vocab_size: usize,
    /// Where each sequence's rows begin among all, and the end of the last.
    starts: Vec<usize>,
    logits: Vec<f32>,
    /// Operations and bytes of the whole forward.
    pub work: Work,
}

impl Forward {
    /// `logits` is (rows, vocab_size): `rows[s]` rows for the s-th sequence. Public for models that tests make up.
    ///
    /// # Panics
    /// Where `logits` has another length.
    pub fn new(vocab_size: usize, rows: &[usize], logits: Vec<f32>, work: Work) -> Forward {
        let mut starts = vec![0];
        starts.extend(rows.iter().scan(0, |end, rows| {
            *end += rows;
            Some(*end)
        }));
        assert_eq!(logits.len(), starts[rows.len()] * vocab_size, "logits for {rows:?} rows of {vocab_size}");
        Forward { vocab_size, starts, logits, work }
    }

    /// Logits after a sequence's row, `vocab_size` of them; `i` counts from the sequence's `logits_from`.
    ///
    /// # Panics
    /// Where the forward computed no such row.
    pub fn row(&self, sequence: usize, i: usize) -> &[f32] {
        assert!(i < self.rows(sequence), "sequence {sequence} has {} rows of logits, not {i}", self.rows(sequence));
        &self.logits[(self.starts[sequence] + i) * self.vocab_size..][..self.vocab_size]
    }

    /// Rows of logits that a sequence has.
    pub fn rows(&self, sequence: usize) -> usize {
        self.starts[sequence + 1] - self.starts[sequence]
    }
}
