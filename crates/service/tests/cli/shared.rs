//! What the command lines of both model services have in common. Each service's `cli.rs` includes this file, and says in
//! `BINARY`, `MODEL` and `OWN_FLAGS` which service it is.

use std::{fs, net::TcpListener, path::Path};

use tempfile::TempDir;

use crate::{
    BINARY, MODEL, OWN_FLAGS,
    process::{Ended, command, end},
    running::Running,
};

/// The smallest model whose loading is worth attacking.
const GEOMETRY: &str = r#"{"vocab_size":128,"n_embd":8,"n_head":2,"n_layer":1,"max_seq_len":16}"#;

/// Bytes of that model's weights.
const WEIGHTS: usize = 4080;

fn service(args: &[&str]) -> Ended {
    end(command(BINARY).args(args), b"")
}

/// What the service says of the model file `weights` with `geometry` beside it.
fn load(directory: &TempDir, geometry: &str, weights: &[u8]) -> Ended {
    let path = directory.path().join("model.safetensors");
    fs::write(path.with_extension("json"), geometry).expect("a temporary directory can be written");
    fs::write(&path, weights).expect("a temporary directory can be written");
    service(&["--listen", "127.0.0.1:0", "--model", path.to_str().expect("a UTF-8 path")])
}

/// Weights of the right length that begin with `header` and its length.
fn weights(header: &str) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + WEIGHTS, 0);
    bytes
}

#[test]
fn a_bad_flag_or_value_ends_with_status_2_and_says_what_is_allowed() {
    let cases: [(&[&str], &[&str]); 22] = [
        (&["--max-gamma", "33"], &["--max-gamma", "33", "1 to 32"]),
        (&["--max-gamma", "0"], &["--max-gamma", "0", "1 to 32"]),
        (&["--max-gamma", "x"], &["--max-gamma", "x", "1 to 32"]),
        (&["--max-sessions", "0"], &["--max-sessions", "0", "1 to 65536"]),
        (&["--max-prompt-tokens", "0"], &["--max-prompt-tokens", "0", "1 to 1048576"]),
        (&["--max-output-tokens", "9999999"], &["--max-output-tokens", "9999999", "1 to 1048576"]),
        (&["--queue-depth", "1e3"], &["--queue-depth", "1e3", "1 to 65536"]),
        (&["--device", "gpu"], &["--device", "gpu", "cpu, cuda, cuda:N", "candle-cpu"]),
        (&["--device", "cuda:x"], &["--device", "cuda:x", "allowed"]),
        (&["--threads", "0"], &["--threads", "0", "1 to 1024"]),
        (&["--threads", "1000000"], &["--threads", "1000000", "1 to 1024"]),
        (&["--grace", "5"], &["--grace", "5", "allowed", "10s"]),
        (&["--idle-timeout", "0s"], &["--idle-timeout", "0s", "allowed: above 0", "10m"]),
        (&["--listen", "7101"], &["--listen", "7101", "allowed", "127.0.0.1:7101"]),
        (&["--listen", "127.0.0.1:99999"], &["--listen", "127.0.0.1:99999", "allowed"]),
        (&["--metrics", "9101"], &["--metrics", "9101", "allowed", "127.0.0.1"]),
        (&["--log-format", "xml"], &["--log-format", "xml", "allowed: text or json"]),
        (&["--model", "embedded:oracle"], &["--model", "embedded:oracle", "embedded:target, embedded:draft"]),
        (&["--model", "synthetic:oracle"], &["--model", "synthetic:oracle", "grown-gpt2", "llama-8b"]),
        (&["--model", ""], &["--model", "embedded:target, embedded:draft"]),
        (&["--gamma", "4"], &["--gamma"]),
        (&["ROMEO:"], &["ROMEO:"]),
    ];
    for (args, words) in cases {
        service(args).failed(2, words);
    }
}

#[test]
fn the_help_names_every_flag_its_variable_and_its_default() {
    let help = service(&["--help"]).succeeded().stdout;
    let flags = [
        ("--model", "OUTRIDER_MODEL", MODEL),
        ("--listen", "OUTRIDER_LISTEN", "127.0.0.1:710"),
        ("--device", "OUTRIDER_DEVICE", "[default: cpu]"),
        ("--threads", "OUTRIDER_THREADS", "default: the processors"),
        ("--max-sessions", "OUTRIDER_MAX_SESSIONS", "32"),
        ("--max-prompt-tokens", "OUTRIDER_MAX_PROMPT_TOKENS", "1048576"),
        ("--max-output-tokens", "OUTRIDER_MAX_OUTPUT_TOKENS", "1048576"),
        ("--max-gamma", "OUTRIDER_MAX_GAMMA", "32"),
        ("--queue-depth", "OUTRIDER_QUEUE_DEPTH", "64"),
        ("--admission-timeout", "OUTRIDER_ADMISSION_TIMEOUT", "10s"),
        ("--kv-bytes", "OUTRIDER_KV_BYTES", "4294967296"),
        ("--metrics", "OUTRIDER_METRICS", "/metrics"),
        ("--log-format", "OUTRIDER_LOG_FORMAT", "text"),
        ("--max-sessions-per-peer", "OUTRIDER_MAX_SESSIONS_PER_PEER", "65536"),
        ("--idle-timeout", "OUTRIDER_IDLE_TIMEOUT", "10m"),
        ("--max-connections", "OUTRIDER_MAX_CONNECTIONS", "1024"),
        ("--max-connections-per-peer", "OUTRIDER_MAX_CONNECTIONS_PER_PEER", "256"),
        ("--tls-cert", "OUTRIDER_TLS_CERT", "PEM"),
        ("--tls-key", "OUTRIDER_TLS_KEY", "PEM"),
        ("--tls-client-ca", "OUTRIDER_TLS_CLIENT_CA", "PEM"),
        ("--grace", "OUTRIDER_GRACE", "10s"),
    ];
    for (flag, variable, default) in flags {
        for word in [flag, variable, default] {
            assert!(help.contains(word), "{word} is not in:\n{help}");
        }
    }
    for (flag, variable) in OWN_FLAGS {
        assert!(help.contains(flag) && help.contains(variable), "{flag} or {variable} is not in:\n{help}");
    }
    let listed = help.lines().filter(|line| line.trim_start().starts_with("--")).count();
    assert_eq!(listed, flags.len() + OWN_FLAGS.len(), "a flag that this test does not know:\n{help}");
}

#[test]
fn a_variable_is_held_to_the_same_range_as_its_flag() {
    for (variable, value, allowed) in [
        ("OUTRIDER_MAX_GAMMA", "33", "1 to 32"),
        ("OUTRIDER_MODEL", "embedded:oracle", "embedded:target"),
        ("OUTRIDER_LISTEN", "everywhere", "127.0.0.1:7101"),
    ] {
        end(command(BINARY).env(variable, value), b"").failed(2, &[value, allowed]);
    }
}

#[test]
fn a_port_in_use_is_named_and_ends_with_status_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("a bound address").to_string();
    service(&["--listen", &address]).failed(1, &[&address, "in use"]);
}

#[test]
fn a_model_that_is_no_model_file_ends_with_status_1_and_names_the_file() {
    let directory = TempDir::new().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("a UTF-8 path").to_owned();
    let listen = ["--listen", "127.0.0.1:0", "--model"];
    let fails = |model: &str, words: &[&str]| drop(service(&[listen.as_slice(), &[model]].concat()).failed(1, words));

    fails(&path("absent.safetensors"), &["absent.json", "No such file"]);
    fs::write(path("alone.json"), GEOMETRY).expect("a temporary directory can be written");
    fails(&path("alone.safetensors"), &["alone.safetensors", "No such file"]);
    fails(&path("absent.gguf"), &["absent.gguf", "No such file"]);
    fs::write(path("empty.gguf"), "").expect("a temporary directory can be written");
    fails(&path("empty.gguf"), &["empty.gguf", "GGUF"]);
    fs::write(path("model.bin"), "").expect("a temporary directory can be written");
    fails(&path("model.bin"), &["model.bin", ".safetensors", ".gguf"]);
    fails(directory.path().to_str().expect("a UTF-8 path"), &["config.json", "No such file"]);
}

#[test]
fn a_truncated_model_ends_with_status_1_and_names_the_file() {
    let embedded = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/model/embedded");
    let geometry = fs::read_to_string(embedded.join("draft.json")).expect("the embedded pair is in the repository");
    let whole = fs::read(embedded.join("draft.safetensors")).expect("the embedded pair is in the repository");
    let directory = TempDir::new().expect("a temporary directory");
    for length in [0, 7, 8, 1000, whole.len() / 2, whole.len() - 1] {
        load(&directory, &geometry, &whole[..length]).failed(1, &["model.safetensors"]);
    }
    let longer = [whole.as_slice(), b"\0\0"].concat();
    load(&directory, &geometry, &longer).failed(1, &["model.safetensors"]);
}

#[test]
fn a_hostile_header_ends_with_status_1_and_names_the_file() {
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"wte.weight":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let mut cases: Vec<Vec<u8>> = [
        String::new(),
        "{".to_owned(),
        "{}".to_owned(),
        "null".to_owned(),
        "[".repeat(100_000),
        tensor("BF16", "[128,8]", "[0,18446744073709551615]"),
        tensor("BF16", "[128,8]", "[2048,0]"),
        tensor("BF16", "[9223372036854775808,9223372036854775808]", "[0,4080]"),
        tensor("BF16", "[128,8]", "[0,2048]"),
        tensor("F32", "[1020]", "[0,4080]"),
        tensor("BF16", "[2040]", "[0,4080]"),
    ]
    .iter()
    .map(|header| weights(header))
    .collect();
    for length in [u64::MAX, u64::MAX - 7, 1 << 40, 100_000_001, WEIGHTS as u64 + 1] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.resize(WEIGHTS + 8, b'{');
        cases.push(bytes);
    }
    let directory = TempDir::new().expect("a temporary directory");
    for bytes in cases {
        load(&directory, GEOMETRY, &bytes).failed(1, &["model.safetensors"]);
    }
}

#[test]
fn a_wrong_geometry_ends_with_status_1_and_names_file_field_and_value() {
    let directory = TempDir::new().expect("a temporary directory");
    let fails = |geometry: &str, words: &[&str]| drop(load(&directory, geometry, &weights("{}")).failed(1, words));
    for (from, to, words) in [
        (r#""n_embd":8"#, r#""n_embd":0"#, ["n_embd", "0"]),
        (r#""n_embd":8"#, r#""n_embd":-8"#, ["n_embd", "-8"]),
        (r#""n_embd":8"#, r#""n_embd":"8""#, ["n_embd", "\"8\""]),
        (r#""n_embd":8"#, r#""n_embd":99999999999999999999"#, ["n_embd", "e+20"]),
        (r#""n_embd":8,"#, "", ["n_embd", "missing"]),
        (r#""n_head":2"#, r#""n_head":3"#, ["n_head", "3"]),
        (r#""n_layer":1"#, r#""n_layer":1000000"#, ["n_layer", "1000000"]),
        (r#""vocab_size":128"#, r#""vocab_size":127"#, ["vocab_size", "127"]),
        (r#""max_seq_len":16"#, r#""max_seq_len":2.5"#, ["max_seq_len", "2.5"]),
    ] {
        let geometry = GEOMETRY.replace(from, to);
        assert_ne!(geometry, GEOMETRY);
        fails(&geometry, &[&["model.json", "allowed"][..], &words[..]].concat());
    }
    fails("", &["model.json", "JSON"]);
    fails("[]", &["model.json", "JSON"]);
    fails(&"[".repeat(60_000), &["model.json", "JSON"]);
    fails(&" ".repeat(1 << 20), &["model.json", "65536"]);
}

// The connection to a service that stops must be served while the test waits for its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_variables_configure_a_service_that_stops_at_a_signal() {
    let mut command = command(BINARY);
    command.envs([
        ("OUTRIDER_LISTEN", "127.0.0.1:0"),
        ("OUTRIDER_MODEL", MODEL),
        ("OUTRIDER_THREADS", "1"),
        ("OUTRIDER_MAX_SESSIONS", "7"),
        ("OUTRIDER_MAX_PROMPT_TOKENS", "900"),
        ("OUTRIDER_MAX_OUTPUT_TOKENS", "800"),
        ("OUTRIDER_MAX_GAMMA", "3"),
        ("OUTRIDER_QUEUE_DEPTH", "11"),
        ("OUTRIDER_ADMISSION_TIMEOUT", "3s"),
        ("OUTRIDER_KV_BYTES", "1000000000"),
        ("OUTRIDER_GRACE", "1s"),
    ]);
    let running = Running::spawn(&mut command);
    let described = running.describe().await;
    let limits = described.limits.expect("limits");
    assert_eq!(described.model, MODEL);
    assert!(described.device.ends_with(" 1 threads"), "{}", described.device);
    assert_eq!((limits.max_sessions, limits.max_gamma, limits.queue_depth), (7, 3, 11));
    assert_eq!((limits.max_prompt_tokens, limits.max_output_tokens), (900, 800));
    assert_eq!(limits.kv_bytes, 1_000_000_000);
    running.stop("TERM").succeeded();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_flag_wins_over_its_variable() {
    let mut command = command(BINARY);
    command.args(["--listen", "127.0.0.1:0", "--max-gamma", "5"]).env("OUTRIDER_MAX_GAMMA", "3");
    let running = Running::spawn(&mut command);
    assert_eq!(running.describe().await.limits.expect("limits").max_gamma, 5);
    running.stop("INT").succeeded();
}
