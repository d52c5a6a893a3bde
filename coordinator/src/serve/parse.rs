//! A body to what is generated. Every refusal names the field, its value and what is allowed.

use std::fmt;

use proto::v1::{ChatMessage, Conversation, GenerateRequest, TokenIds, generate_request::Input};
use serde_json::{Value, json};
use speculative::{Logprobs, Penalties, Sampling, TokenId, policy::Gamma};
use tokenizer::Message;

use super::{Config, Refusal, fields::Fields};
use crate::{Error, Pair, Request, text};

/// Tokens that OpenAI's completions generate where nobody says.
const COMPLETION_TOKENS: u64 = 16;

/// The most stop strings, and the most bytes of one: each is looked for after every token.
const MOST_STOPS: usize = 16;
const MOST_STOP_BYTES: usize = 256;

/// A seed that is drawn has as many bits as a JSON number keeps everywhere.
const SEED_BITS: u64 = (1 << 53) - 1;

/// Which of the two kinds of request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Completions,
    Chat,
}

/// What this request calls the fields that a run may still refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) prompt: &'static str,
    pub(super) max_tokens: &'static str,
}

impl Names {
    /// The request's name for a field of [`Request`].
    pub(super) fn of(self, field: &'static str) -> &'static str {
        if field == "max_tokens" { self.max_tokens } else { field }
    }
}

/// What a request asks for.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// The first choice; the others have the seeds after it.
    pub(super) request: Request,
    pub(super) choices: usize,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    pub(super) names: Names,
}

impl Endpoint {
    /// As the GenAI conventions name it.
    pub(super) fn operation(self) -> &'static str {
        match self {
            Self::Completions => "text_completion",
            Self::Chat => "chat",
        }
    }
}

/// Reads a body of JSON. `random` is the seed where the request gives none.
pub(super) fn body(
    endpoint: Endpoint,
    body: &[u8],
    pair: &Pair,
    config: &Config,
    random: u64,
) -> Result<Asked, Refusal> {
    let value: Value = serde_json::from_slice(body).map_err(|error| Refusal::Body(error.to_string()))?;
    let fields = Fields::of(&value, "")?;
    model(fields.string("model")?, pair)?;
    let choices = fields.whole("n", 1..=config.max_concurrent as u64)?.unwrap_or(1);
    unsupported(fields, choices)?;
    let names = Names {
        prompt: if endpoint == Endpoint::Chat { "messages" } else { "prompt" },
        max_tokens: match fields.get("max_completion_tokens") {
            Some(_) => "max_completion_tokens",
            None => "max_tokens",
        },
    };
    let stream = fields.boolean("stream")?;
    let include_usage = include_usage(fields, stream)?;
    let (sampling, stop) = (sampling(fields, random)?, stop(fields)?);
    let gamma = gamma(fields, pair, config)?;
    let top_logprobs = top_logprobs(fields, endpoint)?;
    let wanted = fields.whole(names.max_tokens, 1..=limit(pair, |limits| limits.max_output_tokens))?;
    let prompt = match endpoint {
        Endpoint::Completions => prompt(fields, pair),
        Endpoint::Chat => conversation(fields, pair),
    }?;
    let max_tokens = wanted.unwrap_or_else(|| unasked_tokens(endpoint, pair, prompt.len())) as usize;
    let Config { branches, min_confidence, .. } = *config;
    let request =
        Request { max_tokens, gamma, min_confidence, branches, stop, top_logprobs, ..Request::new(prompt, sampling) };
    Ok(Asked { request, choices: choices as usize, stream, include_usage, names })
}

/// Reads a gRPC message in the same way. What a run checks itself is left to it.
pub(super) fn message(message: GenerateRequest, pair: &Pair, config: &Config, random: u64) -> Result<Asked, Refusal> {
    let refuse = |field: &'static str, value: &dyn fmt::Display, allowed: &str| {
        Refusal::field(field, format!("{field} is {value}, allowed: {allowed}"))
    };
    model(Some(message.model.as_str()).filter(|model| !model.is_empty()), pair)?;
    let choices = message.n.unwrap_or(1);
    let most = config.max_concurrent;
    if !(1..=most).contains(&(choices as usize)) {
        return Err(refuse("n", &choices, &format!("1 to {most}")));
    }
    if message.stop.len() > MOST_STOPS {
        return Err(refuse("stop", &format!("{} strings", message.stop.len()), &format!("at most {MOST_STOPS}")));
    }
    if let Some(stop) = message.stop.iter().find(|stop| !(1..=MOST_STOP_BYTES).contains(&stop.len())) {
        let allowed = format!("1 to {MOST_STOP_BYTES} bytes each");
        return Err(refuse("stop", &format!("{} bytes long", stop.len()), &allowed));
    }
    let sampling = Sampling {
        temperature: message.temperature.unwrap_or(1.0),
        top_k: message.top_k,
        top_p: message.top_p.unwrap_or(1.0),
        min_p: message.min_p,
        seed: message.seed.unwrap_or(random & SEED_BITS),
        penalties: Penalties {
            presence: message.presence_penalty,
            frequency: message.frequency_penalty,
            repetition: message.repetition_penalty.unwrap_or(1.0),
        },
    };
    sampling.validate().map_err(|invalid| refuse(invalid.field, &invalid.value, invalid.allowed))?;
    let (endpoint, prompt, name) = match message.input {
        None => return Err(refuse("input", &"missing", "prompt, token_ids or conversation")),
        Some(Input::Prompt(prompt)) => {
            let names = Names { prompt: "prompt", max_tokens: "max_tokens" };
            let prompt = text::encode(&pair.tokenizer, &prompt).map_err(|error| Refusal::failed(error, names))?;
            (Endpoint::Completions, prompt, "prompt")
        }
        Some(Input::TokenIds(TokenIds { ids })) => {
            let size = pair.target.description.tokenizer_size;
            if let Some(id) = ids.iter().find(|id| **id >= size) {
                return Err(refuse("token_ids", id, &format!("0 to {}", size - 1)));
            }
            (Endpoint::Completions, ids, "token_ids")
        }
        Some(Input::Conversation(Conversation { messages })) => {
            let spoken = messages.into_iter().map(|ChatMessage { role, content }| {
                let role = role_of(&role).ok_or_else(|| refuse("role", &json!(role), ROLES))?;
                Ok(Message { role: role.to_owned(), content })
            });
            let messages = spoken.collect::<Result<Vec<_>, Refusal>>()?;
            if messages.is_empty() {
                return Err(refuse("conversation", &"empty", "one message or more"));
            }
            (Endpoint::Chat, converse(&messages, pair, "conversation")?, "conversation")
        }
    };
    let unasked = unasked_tokens(endpoint, pair, prompt.len()) as u32;
    let request = Request {
        max_tokens: message.max_tokens.unwrap_or(unasked) as usize,
        gamma: message.gamma.map_or(unasked_gamma(pair, config), |gamma| Gamma::Fixed(gamma as usize)),
        branches: config.branches,
        min_confidence: config.min_confidence,
        stop: message.stop,
        top_logprobs: message.top_logprobs.map(|top| top as usize),
        ..Request::new(prompt, sampling)
    };
    let names = Names { prompt: name, max_tokens: "max_tokens" };
    Ok(Asked { request, choices: choices as usize, stream: true, include_usage: true, names })
}

/// Tokens that are generated where nobody says how many.
fn unasked_tokens(endpoint: Endpoint, pair: &Pair, prompt_len: usize) -> u64 {
    let most = limit(pair, |limits| limits.max_output_tokens);
    match endpoint {
        Endpoint::Completions => COMPLETION_TOKENS.min(most),
        Endpoint::Chat => {
            let room = u64::from(pair.target.description.context_length).saturating_sub(prompt_len as u64);
            room.min(most).max(1)
        }
    }
}

/// A limit of the target.
fn limit(pair: &Pair, of: impl Fn(&proto::v1::Limits) -> u32) -> u64 {
    pair.target.description.limits.as_ref().map_or(0, of).into()
}

/// There is one model; who names it must name that one.
fn model(model: Option<&str>, pair: &Pair) -> Result<(), Refusal> {
    let served = &pair.target.description.model;
    match model {
        Some(model) if model != served => {
            let model = json!(model.chars().take(64).collect::<String>()).to_string();
            Err(Refusal::Model { model, served: served.clone() })
        }
        _ => Ok(()),
    }
}

/// Fields that would change the output and that are not built yet: only the value that changes nothing is taken.
fn unsupported(fields: Fields<'_>, choices: u64) -> Result<(), Refusal> {
    let empty = |value: &Value| match value {
        Value::Array(array) => array.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::String(string) => string.is_empty(),
        _ => false,
    };
    let falsely = |value: &Value| value == &Value::Bool(false);
    let by_number = |name, neutral: f64, allowed| match fields.get(name) {
        Some(value) if value.as_f64() != Some(neutral) => Err(fields.refuse(name, allowed)),
        _ => Ok(()),
    };
    by_number("min_tokens", 0.0, "0")?;
    by_number("best_of", choices as f64, "the same as n")?;
    for name in ["echo", "ignore_eos", "use_beam_search"] {
        if fields.get(name).is_some_and(|value| !falsely(value)) {
            return Err(fields.refuse(name, "false"));
        }
    }
    for name in ["logit_bias", "tools", "functions", "suffix", "stop_token_ids", "structured_outputs"] {
        if fields.get(name).is_some_and(|value| !empty(value)) {
            return Err(fields.refuse(name, "nothing in it"));
        }
    }
    for name in ["audio", "prompt_logprobs", "guided_json", "guided_regex", "guided_choice", "guided_grammar"] {
        if fields.get(name).is_some() {
            return Err(fields.refuse(name, "null"));
        }
    }
    for name in ["tool_choice", "function_call"] {
        if fields.get(name).is_some_and(|value| value != "none" && value != "auto") {
            return Err(fields.refuse(name, "\"none\" or \"auto\", as there are no tools"));
        }
    }
    if fields.get("response_format").is_some_and(|format| format["type"] != "text") {
        return Err(fields.refuse("response_format", "{\"type\": \"text\"}"));
    }
    match fields.get("modalities") {
        Some(modalities) if modalities != &json!(["text"]) => Err(fields.refuse("modalities", "[\"text\"]")),
        _ => Ok(()),
    }
}

fn include_usage(fields: Fields<'_>, stream: bool) -> Result<bool, Refusal> {
    let Some(options) = fields.get("stream_options") else { return Ok(false) };
    let include_usage = Fields::of(options, "stream_options")?.boolean("include_usage")?;
    match stream {
        true => Ok(include_usage),
        false => Err(fields.refuse("stream_options", "null, unless stream is true")),
    }
}

/// OpenAI's defaults, and top_k, min_p and repetition_penalty as vLLM has them.
fn sampling(fields: Fields<'_>, random: u64) -> Result<Sampling, Refusal> {
    let sampling = Sampling {
        temperature: fields.number("temperature")?.unwrap_or(1.0),
        top_k: fields.whole("top_k", 0..=u32::MAX.into())?.unwrap_or(0) as u32,
        top_p: fields.number("top_p")?.unwrap_or(1.0),
        min_p: fields.number("min_p")?.unwrap_or(0.0),
        seed: fields.whole("seed", 0..=u64::MAX)?.unwrap_or(random & SEED_BITS),
        penalties: Penalties {
            presence: fields.number("presence_penalty")?.unwrap_or(0.0),
            frequency: fields.number("frequency_penalty")?.unwrap_or(0.0),
            repetition: fields.number("repetition_penalty")?.unwrap_or(1.0),
        },
    };
    sampling.validate().map_err(|invalid| fields.refuse(invalid.field, invalid.allowed))?;
    Ok(sampling)
}

fn stop(fields: Fields<'_>) -> Result<Vec<String>, Refusal> {
    let refused = || {
        let allowed = format!("a string of 1 to {MOST_STOP_BYTES} bytes, or an array of at most {MOST_STOPS} of them");
        fields.refuse("stop", &allowed)
    };
    let one = |value: &Value| {
        let stop = value.as_str().filter(|stop| (1..=MOST_STOP_BYTES).contains(&stop.len()));
        stop.map(str::to_owned).ok_or_else(refused)
    };
    match fields.get("stop") {
        None => Ok(Vec::new()),
        Some(Value::Array(stops)) if stops.len() <= MOST_STOPS => stops.iter().map(one).collect(),
        Some(value) => Ok(vec![one(value)?]),
    }
}

/// Where the request does not say, the service's own, as far as the services take it.
fn gamma(fields: Fields<'_>, pair: &Pair, config: &Config) -> Result<Gamma, Refusal> {
    if fields.get("gamma").and_then(Value::as_str) == Some("auto") {
        return Ok(Gamma::Auto);
    }
    let gamma = fields.whole("gamma", 0..=pair.most_gamma() as u64)?;
    Ok(gamma.map_or(unasked_gamma(pair, config), |gamma| Gamma::Fixed(gamma as usize)))
}

fn unasked_gamma(pair: &Pair, config: &Config) -> Gamma {
    match config.gamma {
        Gamma::Fixed(gamma) => Gamma::Fixed(gamma.min(pair.most_gamma())),
        Gamma::Auto => Gamma::Auto,
    }
}

/// A chat asks for log-probabilities and says of how many tokens, a completion does both with one number.
fn top_logprobs(fields: Fields<'_>, endpoint: Endpoint) -> Result<Option<usize>, Refusal> {
    let number = |name| Ok(fields.whole(name, 0..=Logprobs::MOST_TOP as u64)?.map(|top| top as usize));
    match endpoint {
        Endpoint::Completions if fields.get("logprobs") == Some(&Value::Bool(false)) => Ok(None),
        Endpoint::Completions => number("logprobs"),
        Endpoint::Chat => match (fields.boolean("logprobs")?, number("top_logprobs")?) {
            (true, top) => Ok(Some(top.unwrap_or(0))),
            (false, None | Some(0)) => Ok(None),
            (false, Some(_)) => Err(fields.refuse("top_logprobs", "0 or null, unless logprobs is true")),
        },
    }
}

fn prompt(fields: Fields<'_>, pair: &Pair) -> Result<Vec<TokenId>, Refusal> {
    let allowed = "a string, an array of one string, or an array of token ids";
    let refused = || fields.refuse("prompt", allowed);
    let value = match fields.get("prompt").ok_or_else(refused)? {
        Value::Array(one) if one.len() == 1 && (one[0].is_string() || one[0].is_array()) => &one[0],
        value => value,
    };
    let names = Names { prompt: "prompt", max_tokens: "max_tokens" };
    match value {
        Value::String(prompt) => text::encode(&pair.tokenizer, prompt).map_err(|error| Refusal::failed(error, names)),
        Value::Array(ids) => ids.iter().map(|id| token(id, pair).ok_or_else(refused)).collect(),
        _ => Err(refused()),
    }
}

fn token(id: &Value, pair: &Pair) -> Option<TokenId> {
    let size = pair.target.description.tokenizer_size;
    id.as_u64().and_then(|id| TokenId::try_from(id).ok()).filter(|id| *id < size)
}

fn conversation(fields: Fields<'_>, pair: &Pair) -> Result<Vec<TokenId>, Refusal> {
    let messages = match fields.get("messages") {
        Some(Value::Array(messages)) if !messages.is_empty() => messages,
        _ => return Err(fields.refuse("messages", "an array of one message or more")),
    };
    let messages = messages.iter().enumerate().map(|(at, value)| spoken(value, &format!("messages[{at}]")));
    let messages = messages.collect::<Result<Vec<_>, _>>()?;
    converse(&messages, pair, "messages")
}

/// The tokens of the prompt in which the model answers `messages`, which the request calls `name`.
fn converse(messages: &[Message], pair: &Pair, name: &'static str) -> Result<Vec<TokenId>, Refusal> {
    let names = Names { prompt: name, max_tokens: "max_tokens" };
    let failed = |error: Error| Refusal::failed(error, names);
    let prompt = text::conversation(&pair.tokenizer, messages).map_err(failed)?;
    text::encode(&pair.tokenizer, &prompt).map_err(failed)
}

/// Who may speak, for messages.
const ROLES: &str = "\"system\", \"developer\", \"user\" or \"assistant\"";

/// A role as templates know it.
fn role_of(role: &str) -> Option<&'static str> {
    match role {
        // The newer name of the same thing.
        "developer" | "system" => Some("system"),
        "user" => Some("user"),
        "assistant" => Some("assistant"),
        _ => None,
    }
}

fn spoken(value: &Value, place: &str) -> Result<Message, Refusal> {
    let fields = Fields::of(value, place)?;
    let role = fields.string("role")?.and_then(role_of).ok_or_else(|| fields.refuse("role", ROLES))?;
    if fields.get("tool_calls").is_some() {
        return Err(fields.refuse("tool_calls", "null"));
    }
    let content = match fields.get("content") {
        Some(Value::String(content)) => content.clone(),
        Some(Value::Array(parts)) => {
            let parts = parts.iter().enumerate().map(|(at, value)| part(value, &format!("{place}.content[{at}]")));
            parts.collect::<Result<String, _>>()?
        }
        _ => return Err(fields.refuse("content", "a string or an array of text parts")),
    };
    Ok(Message { role: role.to_owned(), content })
}

fn part(value: &Value, place: &str) -> Result<String, Refusal> {
    let fields = Fields::of(value, place)?;
    if fields.string("type")? != Some("text") {
        return Err(fields.refuse("type", "\"text\""));
    }
    fields.string("text")?.map(str::to_owned).ok_or_else(|| fields.refuse("text", "a string"))
}
