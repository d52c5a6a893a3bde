//! Models that sleep, wait, fail, or answer with garbage.

use std::{
    fmt,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use model::{Decoder, Description, Error, Forward, KvCache, Rows, Transformer};
use speculative::{philox, roofline::Roofs};
use tokenizer::{Tokenizer, Vocabulary};

type Pass = Box<dyn FnMut(&mut Transformer, &mut [Rows<'_>]) -> Result<Forward, Error> + Send>;

/// A model whose forward is another's, and which may say something else of itself.
pub struct Wrapped {
    inner: Transformer,
    description: Description,
    pass: Pass,
}

impl Wrapped {
    /// `inner`, forwarded by `pass`.
    pub fn new(
        inner: Transformer,
        pass: impl FnMut(&mut Transformer, &mut [Rows<'_>]) -> Result<Forward, Error> + Send + 'static,
    ) -> Self {
        Self { description: inner.description().clone(), inner, pass: Box::new(pass) }
    }

    /// The same model under another description.
    #[must_use]
    pub fn described(mut self, change: impl FnOnce(&mut Description)) -> Self {
        change(&mut self.description);
        self
    }
}

impl Decoder for Wrapped {
    fn description(&self) -> &Description {
        &self.description
    }

    fn new_cache(&self) -> KvCache {
        self.inner.new_cache()
    }

    fn forward(&mut self, batch: &mut [Rows<'_>]) -> Result<Forward, Error> {
        (self.pass)(&mut self.inner, batch)
    }

    fn measure_roofs(&mut self) -> Option<Roofs> {
        self.inner.measure_roofs()
    }
}

impl fmt::Debug for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wrapped").field("model", &self.description.name).finish()
    }
}

/// The model itself, to be described otherwise.
pub fn plain(inner: Transformer) -> Wrapped {
    Wrapped::new(inner, Decoder::forward)
}

/// Sleeps before each forward.
pub fn sleepy(inner: Transformer, pause: Duration) -> Wrapped {
    Wrapped::new(inner, move |inner, batch| {
        thread::sleep(pause);
        inner.forward(batch)
    })
}

/// What a model waits at before each forward, while it is shut.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<Bar>, Condvar)>);

#[derive(Debug, Default)]
struct Bar {
    shut: bool,
    held: bool,
}

impl Gate {
    /// Lets nothing pass.
    pub fn shut(&self) {
        self.bar().shut = true;
    }

    /// Lets everything pass.
    pub fn open(&self) {
        self.bar().shut = false;
        self.0.1.notify_all();
    }

    /// Whether a forward stands before it.
    pub fn holds(&self) -> bool {
        self.bar().held
    }

    /// Waits while it is shut.
    pub fn wait(&self) {
        let mut bar = self.bar();
        while bar.shut {
            bar.held = true;
            bar = self.0.1.wait(bar).expect("no holder of the lock panics");
        }
        bar.held = false;
    }

    fn bar(&self) -> MutexGuard<'_, Bar> {
        self.0.0.lock().expect("no holder of the lock panics")
    }
}

/// Waits at `gate` before each forward.
pub fn gated(inner: Transformer, gate: Gate) -> Wrapped {
    Wrapped::new(inner, move |inner, batch| {
        gate.wait();
        inner.forward(batch)
    })
}

/// Fails every `n`-th forward.
pub fn failing(inner: Transformer, n: u64) -> Wrapped {
    let mut passes = 0;
    Wrapped::new(inner, move |inner, batch| {
        passes += 1;
        match passes % n {
            0 => Err(Error::Stopped),
            _ => inner.forward(batch),
        }
    })
}

/// Loses its device in as many forwards as `failures` says, from now on.
pub fn on_a_device(inner: Transformer, failures: Arc<AtomicUsize>) -> Wrapped {
    Wrapped::new(inner, move |inner, batch| {
        let failed = failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match failed {
            Ok(_) => Err(Error::Device("gone".to_owned())),
            Err(_) => inner.forward(batch),
        }
    })
}

/// Notes in `most` how many sessions shared a forward.
pub fn counting(inner: Transformer, most: Arc<AtomicUsize>) -> Wrapped {
    Wrapped::new(inner, move |inner, batch| {
        most.fetch_max(batch.len(), Ordering::Relaxed);
        inner.forward(batch)
    })
}

/// The model with a vocabulary of `size` ids, of which those that it did not know are as unlikely as can be.
pub fn wide(inner: Transformer, size: usize) -> Wrapped {
    let tokenizer = byte_level(|vocabulary| {
        vocabulary.tokens.extend((128..size).map(|id| format!("<{id}>")));
        vocabulary.token_types.as_mut().expect("types").resize(size, 1);
    });
    let widened = Wrapped::new(inner, move |inner, batch| {
        let forward = inner.forward(batch)?;
        let rows: Vec<usize> = (0..batch.len()).map(|sequence| forward.rows(sequence)).collect();
        let mut logits = Vec::with_capacity(rows.iter().sum::<usize>() * size);
        for (sequence, &rows) in rows.iter().enumerate() {
            for row in 0..rows {
                let known = logits.len();
                logits.extend_from_slice(forward.row(sequence, row));
                logits.resize(known + size, -1000.0);
            }
        }
        Ok(Forward::new(size, &rows, logits, forward.work))
    });
    widened.described(|model| (model.tokenizer, model.vocab_size) = (tokenizer, size))
}

/// Logits that have nothing to do with the tokens.
pub fn garbage(inner: Transformer, logit: fn(u64) -> f32) -> Wrapped {
    let mut drawn = 0;
    Wrapped::new(inner, move |inner, batch| {
        let forward = inner.forward(batch)?;
        let vocab_size = inner.description().vocab_size;
        let rows: Vec<usize> = (0..batch.len()).map(|sequence| forward.rows(sequence)).collect();
        let mut logits = || {
            drawn += 1;
            logit(drawn)
        };
        let logits = (0..rows.iter().sum::<usize>() * vocab_size).map(|_| logits()).collect();
        Ok(Forward::new(vocab_size, &rows, logits, forward.work))
    })
}

/// The model at a temperature of its own: the higher it is, the less it agrees with others.
pub fn tempered(inner: Transformer, temperature: f32) -> Wrapped {
    Wrapped::new(inner, move |inner, batch| {
        let forward = inner.forward(batch)?;
        let rows: Vec<usize> = (0..batch.len()).map(|sequence| forward.rows(sequence)).collect();
        let row = |(sequence, &rows): (usize, &usize)| (0..rows).map(move |row| (sequence, row)).collect::<Vec<_>>();
        let all = rows.iter().enumerate().flat_map(row);
        let logits = all.flat_map(|(sequence, row)| forward.row(sequence, row)).map(|z| z / temperature).collect();
        Ok(Forward::new(inner.description().vocab_size, &rows, logits, forward.work))
    })
}

/// Pseudo-random logits, -8 to 8, for [`garbage`].
pub fn noise(n: u64) -> f32 {
    let [word, ..] = philox::philox4x32_10([n as u32, (n >> 32) as u32, 0, 0], [0x6a, 0xbb]);
    (f64::from(word) / f64::from(u32::MAX) * 16.0 - 8.0) as f32
}

/// The embedded pair's tokenizer as a byte-level one, in which `end` ends a text.
pub fn ending_at(end: char) -> Tokenizer {
    byte_level(|vocabulary| {
        vocabulary.token_types.as_mut().expect("types")[end as usize] = 3;
        vocabulary.eos = Some(end.into());
    })
}

/// The embedded pair's tokenizer as a byte-level one with a chat template.
pub fn chatting() -> Tokenizer {
    byte_level(|vocabulary| {
        let template = "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}\n{% endfor %}ASSISTANT:";
        vocabulary.chat_template = Some(template.to_owned());
    })
}

/// A byte-level tokenizer in which " t" spells an é, each of the two half of it.
pub fn halving() -> Tokenizer {
    byte_level(|vocabulary| {
        vocabulary.tokens[' ' as usize] = "Ã".to_owned();
        vocabulary.tokens['t' as usize] = "©".to_owned();
    })
}

fn byte_level(change: impl FnOnce(&mut Vocabulary)) -> Tokenizer {
    let spelled = |byte: u8| match byte {
        0..=0x20 => char::from_u32(0x100 + u32::from(byte)).expect("a character"),
        0x7f => 'ġ',
        _ => byte.into(),
    };
    let mut vocabulary = Vocabulary {
        model: "gpt2".to_owned(),
        pre: Some("gpt-2".to_owned()),
        tokens: (0..128).map(|byte| spelled(byte).to_string()).collect(),
        token_types: Some(vec![1; 128]),
        ..Vocabulary::default()
    };
    change(&mut vocabulary);
    Tokenizer::from_gguf(vocabulary).expect("a vocabulary without a fault")
}

/// A tokenizer of as many ids as the embedded pair's, which stand for something else.
pub fn another_tokenizer() -> Tokenizer {
    let tokens = (0..128).map(|id| format!("<{id}>")).collect();
    let vocabulary = Vocabulary { model: "gpt2".to_owned(), tokens, ..Vocabulary::default() };
    Tokenizer::from_gguf(vocabulary).expect("a vocabulary without a fault")
}

/// Logits that no model should have, for [`garbage`]: not a number, infinite, or all alike.
pub fn poison(n: u64) -> f32 {
    match n / 128 % 4 {
        0 => f32::NAN,
        1 => f32::INFINITY,
        2 => f32::NEG_INFINITY,
        _ => 0.0,
    }
}
