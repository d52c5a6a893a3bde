//! Chat templates.

use tokenizer::{Error, Message, Tokenizer, Vocabulary};

use super::small::{BEGIN, vocabulary};

fn rendered(template: &str) -> Result<String, Error> {
    let vocabulary = Vocabulary { chat_template: Some(template.to_owned()), eos: Some(261), ..vocabulary() };
    let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
    Tokenizer::from_gguf(vocabulary).unwrap().render_chat(&[message("system", "Be <brief>."), message("user", " Hi ")])
}

#[test]
fn a_template_sees_messages_and_marks() {
    let template = "{{ bos_token }}{% for message in messages %}\n[{{ message.role }}] {{ message['content'].strip() }}\n  \
                    {% endfor %}\n{% if add_generation_prompt %}[assistant]{% endif %}{{ eos_token }}";
    assert_eq!(rendered(template).unwrap(), "<s>[system] Be <brief>.\n[user] Hi\n[assistant]<|im_end|>");
}

#[test]
fn what_transformers_gives_templates_is_there() {
    let cases = [
        (
            "{{ messages | tojson }}",
            r#"[{"role": "system", "content": "Be <brief>."}, {"role": "user", "content": " Hi "}]"#,
        ),
        ("{{ [1, 'é'] | tojson(indent=2) }}", "[\n  1,\n  \"é\"\n]"),
        ("{% for n in [1, 2, 3] %}{% if n == 2 %}{% break %}{% endif %}{{ n }}{% endfor %}", "1"),
        ("{{ 'a,b'.split(',')[-1] }}{{ 'x'.upper() }}{{ messages[::-1][0].role }}", "bXuser"),
        ("{{ tools is none }}{{ tools is defined }}{{ nothing is defined }}{{ messages[0].absent }}", "TrueTrueFalse"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
        ("{{ strftime_now('%Y') | length }}", "4"),
    ];
    for (template, expected) in cases {
        assert_eq!(rendered(template).unwrap(), expected, "{template}");
    }
}

#[test]
fn a_template_that_refuses_is_quoted() {
    let refusal = rendered("{{ raise_exception('roles must alternate') }}").unwrap_err();
    assert!(refusal.to_string().contains("roles must alternate"), "{refusal}");
}

#[test]
fn a_broken_or_endless_template_is_an_error() {
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}";
    for template in
        ["{% if %}", "{{ strftime_now('%') }}", "{{ messages | nonsense }}", "{{ 1 | tojson(indent=99) }}", endless]
    {
        assert!(matches!(rendered(template), Err(Error::ChatTemplate(_))), "{template}");
    }
}

#[test]
fn without_a_template_the_tokenizer_is_named() {
    let plain = Tokenizer::from_gguf(vocabulary()).unwrap();
    assert!(!plain.has_chat_template());
    assert_eq!(plain.render_chat(&[]).unwrap_err().to_string(), "the tokenizer gpt-2 has no chat template");
    assert_eq!(
        Tokenizer::ascii().render_chat(&[]).unwrap_err().to_string(),
        "the tokenizer ascii has no chat template"
    );
}

#[test]
fn a_template_that_writes_the_first_token_gets_no_second_one() {
    let chat_template = Some("{{ bos_token }}he".to_owned());
    let tokenizer = Tokenizer::from_gguf(Vocabulary { chat_template, add_bos: Some(true), ..vocabulary() }).unwrap();
    let prompt = tokenizer.render_chat(&[]).unwrap();
    assert_eq!(tokenizer.encode(&prompt).unwrap(), [BEGIN, 256]);
}
