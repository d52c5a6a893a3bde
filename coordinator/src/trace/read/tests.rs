use super::*;

const OTLP: &str = r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"outrider-target"}}]},
"scopeSpans":[{"spans":[{"traceId":"0af7","spanId":"b7ad","parentSpanId":"00f0","name":"verify","startTimeUnixNano":"1795797478054796803",
"endTimeUnixNano":1795797478091995843,"attributes":[{"key":"n","value":{"intValue":"7"}},{"key":"x","value":{"doubleValue":0.5}},
{"key":"list","value":{"arrayValue":{"values":[{"stringValue":"stop"}]}}}],"events":[{"name":"emit","timeUnixNano":"5","attributes":[]}]}]}]}]}"#;

const JAEGER: &str = r#"{"data":[{"traceID":"0af7","spans":[{"traceID":"0af7","spanID":"b7ad","operationName":"verify","processID":"p1",
"references":[{"refType":"CHILD_OF","traceID":"0af7","spanID":"00f0"}],"startTime":1795797478054796,"duration":37199,
"tags":[{"key":"n","type":"int64","value":7},{"key":"x","type":"float64","value":0.5}],
"logs":[{"timestamp":6,"fields":[{"key":"event","type":"string","value":"emit"}]}]}],
"processes":{"p1":{"serviceName":"outrider-target","tags":[]}}}]}"#;

const OTELITE: &str = r#"{"trace_id":"0af7","spans":[{"span_id":"b7ad","trace_id":"0af7","parent_span_id":"00f0","name":"verify",
"kind":"Server","start_time":1795797478054796803,"end_time":1795797478091995843,"attributes":{"n":"7","x":"0.5"},
"resource":{"attributes":{"service.name":"outrider-target"}},"events":[{"name":"emit","timestamp":5,"attributes":{}}]}]}"#;

fn assert_verify(span: &Span) {
    assert_eq!((&span.trace_id[..], &span.id[..], &span.parent[..]), ("0af7", "b7ad", "00f0"));
    assert_eq!((&span.name[..], &span.service[..]), ("verify", "outrider-target"));
    assert_eq!((span.number("n"), span.number("x")), (Some(7.0), Some(0.5)));
    assert_eq!(span.events[0].name, "emit");
    assert!((37_199_000..37_200_000).contains(&(span.end_ns - span.start_ns)), "{span:?}");
}

#[test]
fn all_forms_say_the_same() {
    let one_line = OTLP.replace('\n', "");
    for text in [OTLP, &format!("{one_line}\n\n{one_line}\n"), &format!("{{\"trace\":{OTLP}}}"), JAEGER, OTELITE] {
        let spans = spans(text).expect("spans");
        assert!(!spans.is_empty());
        spans.iter().for_each(assert_verify);
    }
    let tempo = OTLP.replace("resourceSpans", "batches");
    assert_verify(&spans(&tempo).expect("spans")[0]);
}

#[test]
fn what_holds_no_spans_is_an_error_that_names_the_line() {
    let line = OTLP.replace('\n', "");
    for (text, expected) in
        [("{}", "line 1 holds no spans"), ("spans", "line 1 is no JSON"), (&format!("{line}\n{{"), "line 2 is no JSON")]
    {
        let error = spans(text).expect_err("no spans").to_string();
        assert!(error.contains(expected), "{error}");
    }
}
