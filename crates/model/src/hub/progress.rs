//! How a download is shown: a bar where somebody looks, a line now and then where it is logged.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Time between two lines of the log.
const EVERY: Duration = Duration::from_secs(5);

/// Shows downloads on standard error.
pub(crate) struct Shown {
    bar: Option<ProgressBar>,
    file: String,
    logged: Instant,
}

impl Shown {
    pub(crate) fn new() -> Shown {
        let style = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let style = ProgressStyle::with_template(style).expect("the template is well-formed");
        let bar = stderr().is_terminal().then(|| ProgressBar::new(0).with_style(style));
        Shown { bar, file: String::new(), logged: Instant::now() }
    }

    /// `done` of `total` bytes of `file` are here.
    pub(crate) fn update(&mut self, file: &str, done: u64, total: u64) {
        let begins = self.file != file;
        if begins {
            file.clone_into(&mut self.file);
        }
        match &self.bar {
            Some(bar) => {
                if begins {
                    bar.reset();
                    bar.set_message(file.to_owned());
                }
                bar.set_length(total);
                bar.set_position(done);
            }
            None if begins || done == total || self.logged.elapsed() >= EVERY => {
                tracing::info!(file, bytes = done, total, "downloading");
                self.logged = Instant::now();
            }
            None => {}
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
