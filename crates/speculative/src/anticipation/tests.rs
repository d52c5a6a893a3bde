use super::*;

/// Ranked tokens with the gaps between their values.
fn row(tokens: [TokenId; 3], gaps: [f64; 2]) -> Vec<Ranked> {
    let values = [0.0, -gaps[0], -gaps[0] - gaps[1]];
    tokens.into_iter().zip(values).map(|(token, value)| Ranked { token, value }).collect()
}

/// A proposal 1 2, the second of which is unsure.
fn planted() -> Tree {
    let mut tree = Tree::new();
    tree.plant(vec![1, 2], vec![row([1, 11, 12], [3.0, 1.0]), row([2, 21, 22], [0.1, 2.0])]);
    tree
}

fn verdicts(foreseen: &[Foreseen]) -> Vec<(usize, TokenId)> {
    foreseen.iter().map(|foreseen| (foreseen.accepted, foreseen.final_token)).collect()
}

#[test]
fn the_unsure_row_is_prepared_for_first() {
    let mut tree = planted();
    assert_eq!(verdicts(&tree.foreseen(3)), [(1, 21), (1, 22), (0, 11)]);
    // What follows both is known only once the last of them was forwarded.
    let root = tree.root();
    assert_eq!(tree.tails(4), [root]);
    tree.tail(root, row([3, 31, 32], [2.0, 2.0]));
    assert!(tree.tails(4).is_empty());
    let foreseen = tree.foreseen(100);
    assert!(verdicts(&foreseen[..2]).contains(&(2, 3)) && foreseen.len() == 2 + 2 + 3);
    assert!(foreseen.iter().map(|foreseen| foreseen.chance).sum::<f64>() < 1.0);
    assert!(foreseen.is_sorted_by(|a, b| a.chance >= b.chance));
}

#[test]
fn branches_of_branches_are_as_likely_as_both() {
    let mut tree = planted();
    let first = tree.foreseen(1)[0];
    let branch = tree.grow(&first, vec![5], vec![row([5, 51, 52], [6.0, 1.0])]);
    assert!(!verdicts(&tree.foreseen(9)[..]).contains(&(1, 21)), "it is there");
    let below = tree.foreseen(9).into_iter().find(|foreseen| foreseen.parent == branch).unwrap();
    assert!(below.chance < 0.01 * first.chance && below.final_token == 51);
    assert_eq!(tree.tails(9), [tree.root(), branch]);

    let deeper = tree.grow(&below, vec![6], vec![row([6, 61, 62], [1.0, 1.0])]);
    let other = tree.foreseen(1)[0];
    let other = tree.grow(&other, vec![7], vec![row([7, 71, 72], [1.0, 1.0])]);
    assert_eq!(tree.settle(&[1, 21]), Some(branch));
    let mut gone = tree.adopt(branch);
    gone.sort_unstable();
    assert_eq!(gone, [branch - 1, other]);
    assert_eq!((tree.root(), tree.branches(), tree.tokens(branch)), (branch, 1, &[5][..]));
    let chance = tree.foreseen(1)[0].chance;
    assert!(chance <= 1.0 && tree.settle(&[51]) == Some(deeper));
}

#[test]
fn a_verdict_without_a_branch_is_a_miss() {
    let mut tree = planted();
    let foreseen = tree.foreseen(1)[0];
    tree.grow(&foreseen, vec![5], vec![row([5, 51, 52], [6.0, 1.0])]);
    for committed in [&[1, 22][..], &[21], &[9], &[1, 2, 21], &[8, 21], &[]] {
        assert_eq!(tree.settle(committed), None, "{committed:?}");
    }
    tree.clear();
    assert_eq!((tree.settle(&[1, 21]), tree.foreseen(5), tree.tails(5)), (None, vec![], vec![]));
}

/// The temperature ends where the first of a row is expected as often as it comes.
#[test]
fn foresight_learns_how_far_a_ranking_is_to_be_trusted() {
    for often in [3, 9] {
        let mut tree = Tree::new();
        for verdict in 0..4000 {
            tree.plant(vec![1], vec![row([1, 11, 12], [1.0, 1.0])]);
            let token = if verdict * 7 % 10 < often { 1 } else { 11 };
            tree.settle(&[token]);
        }
        let chance = tree.foresight.chances(&row([1, 11, 12], [1.0, 1.0]))[0];
        assert!((chance - f64::from(often) / 10.0).abs() < 0.1, "{chance} where {often} of 10");
    }
}
