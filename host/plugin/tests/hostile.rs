//! Guests that mean no good, or were built wrong: each ends with its sentence,
//! and none takes the host down.

use std::time::{Duration, Instant};

use host_plugin::{Limits, Plugin};

const SMALL: Limits =
    Limits { fuel: 10_000_000, fuel_per_byte: 0, memory: 4 << 20, time: Duration::from_secs(20) };

/// A component whose `describe` runs a body, with further text before it.
fn guest(imports: &str, items: &str, body: &str) -> Vec<u8> {
    let text = format!(
        r#"(component
            {imports}
            (core module $m
                (memory (export "memory") 1)
                {items}
                (func (export "describe") {body})
                (func (export "plan") (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func $describe (canon lift (core func $i "describe")))
            (func $plan (result (result (error string))) (canon lift (core func $i "plan") (memory (core memory $i "memory"))))
            (instance $method (export "describe" (func $describe)) (export "plan" (func $plan)))
            (export "peft:plugin/method@0.1.0" (instance $method)))"#
    );
    wat::parse_str(text).unwrap()
}

#[track_caller]
fn refused(bytes: &[u8], limits: Limits, parts: &[&str]) {
    let error = Plugin::load(bytes, "guest.wasm", limits).err().expect("the guest was taken").to_string();
    for part in parts {
        assert!(error.contains(part), "\"{part}\" is not in: {error}");
    }
    assert!(error.starts_with("guest.wasm"), "{error}");
}

#[test]
fn an_endless_loop_runs_out_of_fuel() {
    refused(&guest("", "", "(loop br 0)"), SMALL, &["in its describe", "ran out of fuel"]);
}

#[test]
fn a_deadline_stands_behind_the_fuel() {
    let limits = Limits { fuel: u64::MAX, time: Duration::from_millis(200), ..SMALL };
    let start = Instant::now();
    refused(&guest("", "", "(loop br 0)"), limits, &["did not answer within"]);
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn memory_has_an_end() {
    let body = "(loop (br_if 0 (i32.ne (memory.grow (i32.const 64)) (i32.const -1)))) unreachable";
    refused(&guest("", "", body), SMALL, &["wanted more than 4 MiB of memory"]);
}

#[test]
fn recursion_and_traps_are_told() {
    refused(&guest("", "(func $f (call $f))", "(call $f)"), SMALL, &["trapped", "stack"]);
    refused(&guest("", "", "unreachable"), SMALL, &["trapped", "unreachable"]);
}

#[test]
fn wasi_is_refused_by_name() {
    let imports = r#"(import "wasi:cli/environment@0.2.0" (instance)) (import "wasi:io/poll@0.2.0" (instance)) (import "wasi:clocks/wall-clock@0.2.0" (instance))"#;
    refused(
        &guest(imports, "", ""),
        SMALL,
        &["wasi:cli/environment@0.2.0, wasi:io/poll@0.2.0 and 1 more", "outside the sandbox"],
    );
}

#[test]
fn what_the_contract_lacks_is_named() {
    let function =
        r#"(import "peft:plugin/graph@0.1.1" (instance (export "cosine" (func (param "value" f64)))))"#;
    refused(
        &guest(function, "", ""),
        SMALL,
        &["graph.cosine of the contract 0.1.1", "offers 0.1.0", "update the program"],
    );
    let interface = r#"(import "peft:plugin/oracle@0.1.0" (instance))"#;
    refused(&guest(interface, "", ""), SMALL, &["it wants oracle"]);
    let other = r#"(import "someone:else/thing@1.0.0" (instance))"#;
    refused(&guest(other, "", ""), SMALL, &["someone:else/thing@1.0.0, which is not part of the contract"]);
    let changed =
        r#"(import "peft:plugin/graph@0.1.0" (instance (export "eye" (func (param "size" string)))))"#;
    refused(&guest(changed, "", ""), SMALL, &["another draft of the contract"]);
}

#[test]
fn what_is_no_plugin_is_told() {
    refused(b"not a component", SMALL, &["no WebAssembly component"]);
    refused(&guest("", "", "")[..40], SMALL, &["no WebAssembly component"]);
    refused(&wat::parse_str("(component)").unwrap(), SMALL, &["exports nothing of the contract"]);
    refused(&guest("", "", ""), SMALL, &["gives no name"]);
}
