//! When logits count as those of a reference.

/// Largest difference allowed.
const TOLERANCE: f32 = 2e-3;

fn argmax(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// Gap between the two greatest.
fn gap(row: &[f32]) -> f32 {
    let mut sorted = row.to_vec();
    sorted.sort_by(f32::total_cmp);
    sorted[row.len() - 1] - sorted[row.len() - 2]
}

/// Within the tolerance, and with the same greatest one wherever the reference's two greatest are further apart.
pub(crate) fn assert_close(ours: &[f32], reference: &[f32], what: &str) {
    assert_eq!(ours.len(), reference.len());
    let worst = ours.iter().zip(reference).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= TOLERANCE, "{what}: off by {worst}");
    if gap(reference) > TOLERANCE {
        assert_eq!(argmax(ours), argmax(reference), "{what}");
    }
}
