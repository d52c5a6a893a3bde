//! Medians and their intervals.

/// The mean; `None` of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The median; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let sorted = sorted(values);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// The 95% confidence interval of the median, from order statistics: the narrowest symmetric pair of ranks (k, n + 1 - k)
/// that a fair coin's n throws leave outside with at most 5% (Conover, Practical Nonparametric Statistics, §3.2). Below
/// six values no pair reaches 95%: the whole range is given. `None` of nothing.
pub fn median_interval(values: &[f64]) -> Option<[f64; 2]> {
    let sorted = sorted(values);
    let n = sorted.len();
    let (mut rank, mut outside, mut term) = (0, 0.0, 0.5_f64.powi(n as i32));
    // `term` is the chance of exactly `rank` heads.
    while rank < n / 2 && outside + term <= 0.025 {
        outside += term;
        term *= (n - rank) as f64 / (rank + 1) as f64;
        rank += 1;
    }
    let low = rank.saturating_sub(1);
    (n > 0).then(|| [sorted[low], sorted[n - 1 - low]])
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn the_interval_has_the_tabulated_ranks() {
        // Conover, table A3: n = 6 gives ranks 1 and 6, n = 15 gives 4 and 12, n = 20 gives 6 and 15.
        for (n, low, high) in [(5, 1.0, 5.0), (6, 1.0, 6.0), (9, 2.0, 8.0), (15, 4.0, 12.0), (20, 6.0, 15.0)] {
            let values: Vec<f64> = (1..=n).map(f64::from).collect();
            assert_eq!(median_interval(&values), Some([low, high]), "n = {n}");
        }
    }
}
