//! The variables that the hub's own tools read.

use std::path::PathBuf;
use std::time::Duration;

use super::{Hub, HubError};

impl Hub {
    pub(super) fn from_env() -> Result<Hub, HubError> {
        Hub::from_variables(|name| std::env::var(name).ok(), std::env::home_dir())
    }

    pub(super) fn from_variables(
        variable: impl Fn(&str) -> Option<String>,
        home: Option<PathBuf>,
    ) -> Result<Hub, HubError> {
        let set = |name| variable(name).filter(|value| !value.trim().is_empty());
        let folder = |name| set(name).map(PathBuf::from);
        let caches = folder("XDG_CACHE_HOME").or_else(|| home.map(|home| home.join(".cache")));
        let huggingface = folder("HF_HOME").or_else(|| caches.map(|caches| caches.join("huggingface")));
        let cache = folder("HF_HUB_CACHE").or_else(|| huggingface.as_ref().map(|folder| folder.join("hub")));
        let cache = cache.ok_or(HubError::Environment {
            variable: "HF_HOME",
            value: String::new(),
            allowed: "a folder, where there is no home folder",
        })?;
        // The client computes links between paths and needs them absolute.
        let cache = std::path::absolute(&cache).map_err(|error| HubError::Io { path: cache, error })?;

        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        if !(endpoint.starts_with("https://") || endpoint.starts_with("http://")) {
            return Err(HubError::Environment { variable: "HF_ENDPOINT", value: endpoint, allowed: "an http(s) URL" });
        }
        let stored = || std::fs::read_to_string(huggingface?.join("token")).ok();
        let token = set("HF_TOKEN").or_else(stored).map(|token| token.trim().to_owned());
        let offline = set("HF_HUB_OFFLINE")
            .is_some_and(|value| ["1", "true", "yes", "on"].iter().any(|yes| value.trim().eq_ignore_ascii_case(yes)));
        Ok(Hub {
            endpoint,
            cache,
            token: token.filter(|token| !token.is_empty()),
            offline,
            pause: Duration::from_millis(500),
        })
    }
}
