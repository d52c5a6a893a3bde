use super::*;

const ROWS: usize = 20_000;

fn share(is_so: impl Fn(usize) -> bool) -> f64 {
    (0..ROWS).filter(|&position| is_so(position)).count() as f64 / ROWS as f64
}

#[test]
fn the_drafts_first_is_chosen_as_often_as_it_ought_to_be() {
    for a in [0.02, 0.3, 0.7, 0.85, 0.98] {
        let text = Text::new(1, &[a], [1, ROWS]);
        let chosen = share(|position| text.choice(position % 7, position, 3) == FIRST);
        assert!((chosen - a).abs() < 0.01, "{chosen} where {a} is wanted");
    }
    for (a, chosen) in [(0.0, 0.0), (1.0, 1.0)] {
        let text = Text::new(1, &[a], [1, ROWS]);
        let seen = share(|position| text.choice(0, position, 0) == FIRST);
        assert!((seen - chosen).abs() < 0.005, "{seen} where {a} is wanted");
    }
}

/// In a short text by chance it would be three hundredths more or less.
#[test]
fn a_short_text_has_its_share() {
    for seed in 0..20 {
        let text = Text::new(seed, &[0.8], [2, 75]);
        let rows = (0..150).filter(|row| text.choice(row / 75, 1 + row % 75, 0) == FIRST).count();
        assert_eq!(rows, 120, "seed {seed}");
    }
}

#[test]
fn places_of_the_window_have_chances_of_their_own() {
    let text = Text::new(2, &[0.9, 0.5], [1, ROWS]);
    for (place, a) in [(0, 0.9), (1, 0.5), (31, 0.5)] {
        let chosen = share(|position| text.choice(0, position, place) == FIRST);
        assert!((chosen - a).abs() < 0.015, "{chosen} at place {place}");
    }
    // They are not independent: what is chosen where little is, is chosen where more is.
    assert!((0..ROWS).all(|position| text.choice(0, position, 1) != FIRST || text.choice(0, position, 0) == FIRST));
}

/// A row that the draft is sure of is one that the target agrees with.
#[test]
fn a_ranking_says_how_sure_it_is() {
    let text = Text::new(3, &[0.8], [1, ROWS]);
    let gap = |position| {
        let row = text.ranked(0, position);
        assert!(row.len() == MOST_RANKED && row.is_sorted_by(|a, b| a.value >= b.value));
        row[0].value - row[1].value
    };
    let of = |is_sure: bool| {
        let rows: Vec<usize> = (0..ROWS).filter(|&position| (gap(position) > 0.7) == is_sure).collect();
        rows.iter().filter(|&&position| text.choice(0, position, 0) == FIRST).count() as f64 / rows.len() as f64
    };
    assert!(of(true) > 0.95 && of(false) < 0.7, "sure {}, unsure {}", of(true), of(false));
}
