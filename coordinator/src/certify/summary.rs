//! A certificate for people.

use std::fmt::{self, Write};

use super::{Certificate, Difference, Invariance, Replay};

/// A few aligned lines, the verdict last.
pub fn summary(certificate: &Certificate) -> String {
    let mut out = String::new();
    write(&mut out, certificate).expect("a String takes all that is written");
    out
}

fn write(out: &mut String, certificate: &Certificate) -> fmt::Result {
    let Certificate { target, replay, invariance } = certificate;
    writeln!(out, "target   {}, {} on {}", target.name, target.dtype, target.device)?;
    if let Some(replay) = replay {
        write_replay(out, replay)?;
    }
    for found in invariance {
        write_invariance(out, found)?;
    }
    let verdict = match (certificate.holds(), certificate.is_invariant()) {
        (true, true) => "the tokens are the same, and every row that was compared has the same bits",
        (true, false) => "the tokens are the same; rows differ in their last bits, so others may not be",
        (false, _) => "the tokens depend on what they are computed with",
    };
    writeln!(out, "verdict  {verdict}")
}

fn write_replay(out: &mut String, replay: &Replay) -> fmt::Result {
    let Replay { tokens, same_model, same_arithmetic, first_difference } = replay;
    let of = match (same_model, same_arithmetic) {
        (false, _) => " (recorded with another model)",
        (true, false) => " (recorded with another arithmetic)",
        (true, true) => "",
    };
    write!(out, "replay   {tokens} tokens{of}: ")?;
    match first_difference {
        None => writeln!(out, "all are what the target alone decodes"),
        Some(difference) => write_difference(out, difference),
    }
}

fn write_invariance(out: &mut String, found: &Invariance) -> fmt::Result {
    let Invariance { kind, window, sessions, rows, identical_rows, max_difference, first_difference } = found;
    let how = match (*kind, window) {
        ("sessions", Some(window)) => format!("windows of {window} in {sessions} sessions"),
        (_, Some(window)) => format!("windows of {window}"),
        (kind, None) => kind.to_owned(),
    };
    write!(out, "rows     {how}: {identical_rows} of {rows} identical")?;
    if identical_rows < rows {
        write!(out, ", off by {max_difference:.2e} at most")?;
    }
    match first_difference {
        None => writeln!(out),
        Some(difference) => {
            write!(out, "; ")?;
            write_difference(out, difference)
        }
    }
}

fn write_difference(out: &mut String, difference: &Difference) -> fmt::Result {
    let Difference { index, position, token, token_alone, top2_gap, choice_gap, rows } = difference;
    write!(out, "token {index} (position {position}) is {token}, alone {token_alone}")?;
    if let (Some(top2), Some(choice)) = (top2_gap, choice_gap) {
        write!(out, "; gap of the two likeliest {top2:.2e}, of the two best choices {choice:.2e}")?;
    }
    match rows {
        Some([rows, row]) => writeln!(out, "; row {row} of {rows}"),
        None => writeln!(out),
    }
}
