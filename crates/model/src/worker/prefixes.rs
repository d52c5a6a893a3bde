//! Pages of prompts that were forwarded, for later prompts that begin alike.
//!
//! A page stands for its own tokens after all those before it, so it is found by its predecessor and its tokens: a chain
//! from the first page on (Kwon et al. 2023, arXiv 2309.06180, section 4.4). Tokens are compared, not hashes of them: what
//! one session puts there is never taken for something else.

use std::{collections::HashMap, sync::Arc};

use speculative::TokenId;

use crate::{
    KvCache,
    kernels::{Page, attention::PAGE},
};

#[cfg(test)]
mod tests;

/// Pages by what they stand for; the least recently used go first.
pub(super) struct Prefixes {
    pages: HashMap<Key, Entry>,
    /// Pages held at most.
    most: usize,
    next_id: u64,
    now: u64,
}

/// What a page stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// The page before it; `None` for a prompt's first.
    after: Option<u64>,
    /// As many as a page holds.
    tokens: Box<[TokenId]>,
}

struct Entry {
    id: u64,
    page: Arc<Page>,
    used: u64,
    /// Pages that follow this one; while there are any it stays.
    followers: usize,
}

impl Prefixes {
    pub(super) fn new(most: usize) -> Self {
        Self { pages: HashMap::new(), most, next_id: 0, now: 0 }
    }

    /// Pages that are held.
    pub(super) fn held(&self) -> usize {
        self.pages.len()
    }

    /// The pages that are there for the beginning of `tokens`, in order.
    pub(super) fn longest(&mut self, tokens: &[TokenId]) -> Vec<Arc<Page>> {
        self.now += 1;
        let (mut pages, mut after) = (Vec::new(), None);
        for tokens in tokens.chunks_exact(PAGE) {
            let Some(entry) = self.pages.get_mut(&Key { after, tokens: tokens.into() }) else { break };
            entry.used = self.now;
            pages.push(entry.page.clone());
            after = Some(entry.id);
        }
        pages
    }

    /// Keeps the whole pages of `prompt`, which `cache` begins with.
    pub(super) fn keep(&mut self, prompt: &[TokenId], cache: &KvCache) {
        self.now += 1;
        let mut after: Option<Key> = None;
        for (tokens, page) in prompt.chunks_exact(PAGE).zip(cache.whole_pages(prompt.len())) {
            let id = after.as_ref().map(|key| self.pages[key].id);
            let key = Key { after: id, tokens: tokens.into() };
            if let Some(entry) = self.pages.get_mut(&key) {
                entry.used = self.now;
            } else {
                if self.pages.len() >= self.most && !self.drop_oldest() {
                    return;
                }
                let entry = Entry { id: self.next_id, page: page.clone(), used: self.now, followers: 0 };
                self.next_id += 1;
                self.pages.insert(key.clone(), entry);
                if let Some(entry) = after.as_ref().and_then(|key| self.pages.get_mut(key)) {
                    entry.followers += 1;
                }
            }
            after = Some(key);
        }
    }

    /// Drops the page that was used longest ago, of those that no page follows; never one that is in use now.
    fn drop_oldest(&mut self) -> bool {
        let ends = self.pages.iter().filter(|(_, entry)| entry.followers == 0 && entry.used < self.now);
        let Some(oldest) = ends.min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone()) else {
            return false;
        };
        self.pages.remove(&oldest);
        if let Some(before) = self.pages.values_mut().find(|entry| Some(entry.id) == oldest.after) {
            before.followers -= 1;
        }
        true
    }
}
