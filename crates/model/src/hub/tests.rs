use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Hub, HubError, check};
use crate::Source;
use stand_in::{Fault, StandIn};

mod stand_in;

const REPO: &str = "acme/tiny-coder";
const INDEX: &str =
    r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}}"#;

fn hub(endpoint: &str, cache: &Path) -> Hub {
    let (endpoint, cache) = (endpoint.to_owned(), cache.to_owned());
    Hub { endpoint, cache, token: None, offline: false, pause: Duration::from_millis(1) }
}

fn fetch(hub: &Hub, file: Option<&str>) -> Result<PathBuf, HubError> {
    hub.fetch(REPO, file, &mut |_, _, _| {})
}

fn weights(seed: u8) -> Vec<u8> {
    (0..200_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed).collect()
}

fn sharded() -> BTreeMap<String, Vec<u8>> {
    let files: [(&str, &[u8]); 8] = [
        ("config.json", b"{}"),
        ("tokenizer.json", b"{\"a\": 1}"),
        ("tokenizer_config.json", b"{\"b\": 2}"),
        ("model.safetensors.index.json", INDEX.as_bytes()),
        ("model-1.safetensors", &weights(1)),
        ("model-2.safetensors", &weights(2)),
        ("README.md", b"not a part of the model"),
        ("../outside.gguf", b"a name that leaves the cache"),
    ];
    files.map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).into()
}

fn ggufs<const N: usize>(names: [&str; N]) -> BTreeMap<String, Vec<u8>> {
    names.map(|name| (name.to_owned(), weights(name.len() as u8))).into()
}

fn assert_whole(folder: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "model-1.safetensors", "model-2.safetensors"]
    {
        assert_eq!(fs::read(folder.join(name)).unwrap(), files[name], "{name}");
    }
}

/// Config, tokenizer and shards come, nothing else, and are there with the hub gone.
#[test]
fn a_folder_is_fetched_once_and_found_again_without_the_hub() {
    let cache = tempfile::tempdir().unwrap();
    let stand_in = StandIn::new(sharded());
    let hub = hub(&stand_in.url, cache.path());
    let mut seen = BTreeMap::new();
    let mut progress = |file: &str, done, total| {
        seen.insert(file.to_owned(), (done, total));
    };
    let folder = hub.fetch(REPO, None, &mut progress).unwrap();
    assert_whole(&folder, &sharded());
    assert!(!folder.join("README.md").exists());
    assert!(!folder.join("generation_config.json").exists());
    assert_eq!(seen["model-1.safetensors"], (200_000, 200_000));
    assert_eq!(seen.len(), 6, "{seen:?}");

    let asked = stand_in.asked().len();
    assert_eq!(fetch(&hub, None).unwrap(), folder);
    assert_eq!(stand_in.asked().len(), asked + 1, "a second fetch asks for the commit alone");
    drop(stand_in);
    assert_eq!(fetch(&hub, None).unwrap(), folder);
    assert_eq!(fetch(&Hub { offline: true, ..hub }, None).unwrap(), folder);
}

#[test]
fn a_gguf_file_is_chosen_by_name_or_by_being_the_only_one() {
    let cache = tempfile::tempdir().unwrap();
    let two = StandIn::new(ggufs(["q4/tiny-q4.gguf", "tiny-q8_0.gguf"]));
    let path = fetch(&hub(&two.url, cache.path()), Some("q4/tiny-q4.gguf")).unwrap();
    assert_eq!(fs::read(&path).unwrap(), weights(15));
    drop(two);
    let offline = Hub { offline: true, ..hub("http://127.0.0.1:9", cache.path()) };
    assert_eq!(fetch(&offline, Some("q4/tiny-q4.gguf")).unwrap(), path);

    let cache = tempfile::tempdir().unwrap();
    // A configuration without weights beside it does not make a folder.
    let one = StandIn::new(ggufs(["config.json", "only.gguf"]));
    let path = fetch(&hub(&one.url, cache.path()), None).unwrap();
    assert!(path.ends_with("only.gguf"), "{path:?}");
    assert_eq!(fetch(&Hub { offline: true, ..hub(&one.url, cache.path()) }, None).unwrap(), path);
}

#[test]
fn what_a_name_does_not_settle_is_refused_with_the_choices() {
    let cache = tempfile::tempdir().unwrap();
    let stand_in = StandIn::new(ggufs(["a.gguf", "b.gguf"]));
    let hub = hub(&stand_in.url, cache.path());
    let error = fetch(&hub, None).unwrap_err().to_string();
    assert_eq!(error, "acme/tiny-coder has no config.json; its .gguf files: a.gguf, b.gguf");
    let error = fetch(&hub, Some("c.gguf")).unwrap_err().to_string();
    assert_eq!(error, "acme/tiny-coder has no c.gguf; its .gguf files: a.gguf, b.gguf");
}

#[test]
fn offline_nothing_is_asked_and_what_is_missing_is_named() {
    let cache = tempfile::tempdir().unwrap();
    let stand_in = StandIn::new(ggufs(["a.gguf"]));
    let hub = Hub { offline: true, ..hub(&stand_in.url, cache.path()) };
    let error = fetch(&hub, Some("a.gguf")).unwrap_err().to_string();
    for named in [REPO, "a.gguf", &stand_in.url, "HF_HUB_OFFLINE", cache.path().to_str().unwrap()] {
        assert!(error.contains(named), "{named} is not in: {error}");
    }
    assert!(stand_in.asked().is_empty());
}

#[test]
fn a_hub_out_of_reach_and_an_empty_cache_are_an_error_that_names_both() {
    let cache = tempfile::tempdir().unwrap();
    let url = StandIn::new(BTreeMap::new()).url.clone();
    let error = fetch(&hub(&url, cache.path()), None).unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error:?}");
    for named in [REPO, &url, "cache"] {
        assert!(error.to_string().contains(named), "{named} is not in: {error}");
    }
}

#[test]
fn a_refusal_says_its_status_and_what_it_may_mean() {
    for (status, hint) in [(404, "no such repository or file"), (401, "HF_TOKEN")] {
        let cache = tempfile::tempdir().unwrap();
        let stand_in = StandIn::new(ggufs(["a.gguf"])).with(Fault::Status { file: "", status });
        let error = fetch(&hub(&stand_in.url, cache.path()), None).unwrap_err().to_string();
        assert!(error.contains(&status.to_string()) && error.contains(hint) && error.contains(REPO), "{error}");
    }
}

#[test]
fn a_download_that_breaks_off_is_resumed_where_it_ended() {
    let cache = tempfile::tempdir().unwrap();
    let fault = Fault::Cut { file: "a.gguf", after: 70_000, times: 1, length_told: true };
    let stand_in = StandIn::new(ggufs(["a.gguf"])).with(fault);
    let path = fetch(&hub(&stand_in.url, cache.path()), None).unwrap();
    assert_eq!(fs::read(path).unwrap(), weights(6));
    assert!(stand_in.asked().iter().any(|request| request.range == "bytes=70000-"), "{:?}", stand_in.asked());
}

/// Without a length the client takes the end of the connection for the end of the file.
#[test]
fn a_part_is_never_taken_for_the_whole() {
    for length_told in [true, false] {
        let cache = tempfile::tempdir().unwrap();
        let fault = Fault::Cut { file: "a.gguf", after: 70_000, times: usize::MAX, length_told };
        let stand_in = StandIn::new(ggufs(["a.gguf"])).with(fault);
        let hub = hub(&stand_in.url, cache.path());
        let error = fetch(&hub, Some("a.gguf")).unwrap_err();
        assert!(matches!(error, HubError::Unreachable { .. }), "{error:?}");
        let error = fetch(&Hub { offline: true, ..hub }, Some("a.gguf")).unwrap_err();
        assert!(matches!(error, HubError::NotCached { .. }), "{error:?}");
    }
}

#[test]
fn a_part_with_other_bytes_or_too_many_is_dropped() {
    for part in [vec![7; 1000], weights(6), vec![7; 300_000]] {
        let cache = tempfile::tempdir().unwrap();
        let stand_in = StandIn::new(ggufs(["a.gguf"]));
        let blobs = cache.path().join("models--acme--tiny-coder/blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(format!("{}.part", stand_in::etag("a.gguf", &weights(6)))), part).unwrap();
        let path = fetch(&hub(&stand_in.url, cache.path()), None).unwrap();
        assert_eq!(fs::read(path).unwrap(), weights(6));
    }
}

#[test]
fn a_new_commit_fetches_what_changed_and_leaves_no_half_in_use() {
    let cache = tempfile::tempdir().unwrap();
    let first = StandIn::new(sharded());
    let before = fetch(&hub(&first.url, cache.path()), None).unwrap();
    drop(first);

    let mut changed = sharded();
    changed.insert("model-2.safetensors".to_owned(), weights(9));
    let fault = Fault::Cut { file: "model-2.safetensors", after: 10, times: usize::MAX, length_told: true };
    let broken = StandIn::new(changed.clone()).with(fault);
    let hub_of = |stand_in: &StandIn| hub(&stand_in.url, cache.path());
    assert_eq!(fetch(&hub_of(&broken), None).unwrap(), before);
    assert_whole(&before, &sharded());
    drop(broken);

    let whole = StandIn::new(changed.clone());
    let after = fetch(&hub_of(&whole), None).unwrap();
    assert_ne!(after, before);
    assert_whole(&after, &changed);
    let body = |file: &str| whole.asked().iter().any(|asked| asked.path.ends_with(file) && asked.range != "bytes=0-0");
    assert!(body("model-2.safetensors"));
    assert!(!body("model-1.safetensors"), "unchanged weights were fetched again");
    let refs: Vec<_> = fs::read_dir(cache.path().join("models--acme--tiny-coder/refs")).unwrap().flatten().collect();
    assert_eq!(refs.len(), 1, "{refs:?}");
}

#[test]
fn an_index_that_names_a_path_outside_is_refused() {
    for shard in ["../../config.json", "/etc/hostname", "a\\..\\b", ""] {
        let cache = tempfile::tempdir().unwrap();
        let mut files = sharded();
        let index = serde_json::json!({ "weight_map": { "a": shard } }).to_string();
        files.insert("model.safetensors.index.json".to_owned(), index.into_bytes());
        let error = fetch(&hub(&StandIn::new(files).url, cache.path()), None).unwrap_err();
        assert!(matches!(error, HubError::Index { .. }), "{error:?}");
    }
}

#[test]
fn an_etag_that_is_a_path_is_refused() {
    let cache = tempfile::tempdir().unwrap();
    let stand_in = StandIn::new(ggufs(["a.gguf"])).with(Fault::Etag { etag: "../../../evil" });
    let error = fetch(&hub(&stand_in.url, cache.path()), None).unwrap_err();
    assert!(matches!(error, HubError::Answer { .. }), "{error:?}");
}

#[test]
fn the_token_goes_to_the_hub() {
    let cache = tempfile::tempdir().unwrap();
    let stand_in = StandIn::new(ggufs(["a.gguf"]));
    let hub = Hub { token: Some("hf_secret".to_owned()), ..hub(&stand_in.url, cache.path()) };
    fetch(&hub, None).unwrap();
    assert!(stand_in.asked().iter().all(|request| request.authorization == "Bearer hf_secret"));
}

#[test]
fn names_that_the_hub_does_not_have_are_refused() {
    for repo in ["", "a/b/c", "../b", "a/..", "/etc", "a/", "a b/c", "a/b--c", "a/.b", "a/b%2f", "a/b?x", "C:\\a"] {
        assert!(check(repo, None).is_err(), "{repo:?}");
    }
    for file in
        ["", "../x.gguf", "/x.gguf", "a//x.gguf", "./x.gguf", "x.safetensors", "x.gguf/..", "x?y.gguf", "a\\x.gguf"]
    {
        assert!(check(REPO, Some(file)).is_err(), "{file:?}");
    }
    for repo in ["gpt2", "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", "a_b/c.d"] {
        check(repo, Some("folder/x-00001-of-00002.gguf")).unwrap();
    }
}

#[test]
fn a_hub_model_is_written_as_it_is_read() {
    for text in ["hf:acme/tiny", "hf:acme/tiny:q4/a.gguf"] {
        let source: Source = text.parse().unwrap();
        assert!(matches!(source, Source::Hub { .. }));
        assert_eq!(source.to_string(), text);
    }
    assert!("hf:acme/tiny:a:b.gguf".parse::<Source>().is_err());
}

#[test]
fn the_environment_is_read_as_the_hubs_own_tools_read_it() {
    let read = |variables: &[(&str, &str)], home: Option<&str>| {
        let found = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Hub::from_variables(found, home.map(PathBuf::from))
    };
    let plain = read(&[], Some("/home/a")).unwrap();
    assert_eq!(plain.cache, Path::new("/home/a/.cache/huggingface/hub"));
    assert_eq!(plain.endpoint, "https://huggingface.co");
    assert!(plain.token.is_none() && !plain.offline);
    assert_eq!(read(&[("XDG_CACHE_HOME", "/x")], None).unwrap().cache, Path::new("/x/huggingface/hub"));
    assert_eq!(read(&[("HF_HOME", "/h")], Some("/home/a")).unwrap().cache, Path::new("/h/hub"));
    assert_eq!(read(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")], None).unwrap().cache, Path::new("/c"));
    assert!(read(&[("HF_HUB_OFFLINE", "True")], Some("/")).unwrap().offline);
    assert!(!read(&[("HF_HUB_OFFLINE", "0")], Some("/")).unwrap().offline);
    assert_eq!(read(&[("HF_ENDPOINT", "http://h:1/")], Some("/")).unwrap().endpoint, "http://h:1");
    assert!(read(&[("HF_ENDPOINT", "h:1")], Some("/")).is_err());
    assert!(read(&[], None).is_err());

    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("token"), "hf_stored\n").unwrap();
    let folder = home.path().to_str().unwrap();
    assert_eq!(read(&[("HF_HOME", folder)], None).unwrap().token.as_deref(), Some("hf_stored"));
    assert_eq!(read(&[("HF_HOME", folder), ("HF_TOKEN", "hf_set")], None).unwrap().token.as_deref(), Some("hf_set"));
}
