use super::*;
use crate::kernels::{Pages, attention::Shape};

/// A cache whose first page begins with `mark`, and so on upwards.
fn cache(pages: usize, mark: f32) -> KvCache {
    let shape = Shape { layers: 1, heads: 1, kv_heads: 1, head_dim: 16 };
    let mut cache = KvCache::new(shape, 64 * PAGE, Pages::new(shape.page_len()));
    for (number, page) in cache.grown(pages * PAGE).iter_mut().enumerate() {
        Arc::get_mut(page).unwrap()[0] = mark + number as f32;
    }
    cache.advance(pages * PAGE);
    cache
}

/// `pages` whole pages of tokens and 5 more; from page `changed` on they differ.
fn prompt(pages: usize, changed: usize) -> Vec<TokenId> {
    (0..pages * PAGE + 5).map(|at| if at < changed * PAGE { at } else { at + 1 } as TokenId).collect()
}

fn marks(prefixes: &mut Prefixes, tokens: &[TokenId]) -> Vec<f32> {
    prefixes.longest(tokens).iter().map(|page| page[0]).collect()
}

#[test]
fn a_prompt_finds_the_pages_that_it_begins_with() {
    let mut prefixes = Prefixes::new(16);
    let one = prompt(3, 3);
    prefixes.keep(&one, &cache(4, 10.0));
    assert_eq!(marks(&mut prefixes, &one), [10.0, 11.0, 12.0], "whole pages of the prompt only");
    assert_eq!(marks(&mut prefixes, &one[..3 * PAGE - 1]), [10.0, 11.0]);
    assert_eq!(marks(&mut prefixes, &one[..PAGE - 1]), [0.0; 0]);
    assert_eq!(marks(&mut prefixes, &one[PAGE..]), [0.0; 0], "the same tokens elsewhere are something else");

    let other = prompt(3, 1);
    assert_eq!(marks(&mut prefixes, &other), [10.0]);
    prefixes.keep(&other, &cache(3, 20.0));
    assert_eq!(marks(&mut prefixes, &other), [10.0, 21.0, 22.0], "the shared page stays the first one's");
    assert_eq!(marks(&mut prefixes, &one), [10.0, 11.0, 12.0]);
}

/// Pages that look alike after different ones are different pages.
#[test]
fn what_comes_before_a_page_counts() {
    let mut prefixes = Prefixes::new(16);
    let (same, a, b) = (vec![7; PAGE], vec![1; PAGE], vec![2; PAGE]);
    prefixes.keep(&[a.clone(), same.clone()].concat(), &cache(2, 10.0));
    prefixes.keep(&[b.clone(), same.clone()].concat(), &cache(2, 20.0));
    assert_eq!(marks(&mut prefixes, &[a, same.clone()].concat()), [10.0, 11.0]);
    assert_eq!(marks(&mut prefixes, &[b, same.clone()].concat()), [20.0, 21.0]);
    assert_eq!(marks(&mut prefixes, &same), [0.0; 0]);
}

#[test]
fn the_least_recently_used_ends_go_first() {
    let mut prefixes = Prefixes::new(3);
    let (one, two, three) = (prompt(2, 2), vec![500; PAGE], vec![600; PAGE]);
    prefixes.keep(&one, &cache(2, 10.0));
    prefixes.keep(&two, &cache(1, 20.0));
    marks(&mut prefixes, &one);
    prefixes.keep(&three, &cache(1, 30.0));
    assert_eq!(marks(&mut prefixes, &two), [0.0; 0], "used longest ago");
    assert_eq!(marks(&mut prefixes, &one), [10.0, 11.0]);
    prefixes.keep(&two, &cache(1, 20.0));
    assert_eq!(marks(&mut prefixes, &three), [0.0; 0]);
    marks(&mut prefixes, &two);
    prefixes.keep(&three, &cache(1, 30.0));
    assert_eq!(marks(&mut prefixes, &one), [10.0], "the end of a chain goes, not its beginning");
}

#[test]
fn a_prompt_that_is_too_long_is_kept_as_far_as_there_is_room() {
    let mut prefixes = Prefixes::new(2);
    prefixes.keep(&prompt(5, 5), &cache(5, 10.0));
    assert_eq!(marks(&mut prefixes, &prompt(5, 5)), [10.0, 11.0]);
    let mut none = Prefixes::new(0);
    none.keep(&prompt(1, 1), &cache(1, 10.0));
    assert_eq!(marks(&mut none, &prompt(1, 1)), [0.0; 0]);
}

/// Whoever writes into a page that others share gets a copy.
#[test]
fn a_shared_page_is_never_written() {
    let mut prefixes = Prefixes::new(4);
    prefixes.keep(&prompt(2, 2), &cache(2, 10.0));
    let mut second = cache(0, 0.0);
    second.adopt(prefixes.longest(&prompt(2, 2)));
    assert_eq!(second.len(), 2 * PAGE);
    second.truncate(PAGE + 3);
    Arc::get_mut(&mut second.grown(1)[1]).expect("a page of its own")[0] = 99.0;
    assert_eq!(marks(&mut prefixes, &prompt(2, 2)), [10.0, 11.0]);
}
