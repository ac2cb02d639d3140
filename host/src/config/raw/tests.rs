use super::*;

fn raw(text: &str) -> Raw {
    Raw::parse("x.toml", text.into()).unwrap()
}

fn words(raw: &Raw, path: &[&str]) -> String {
    let (last, parents) = path.split_last().unwrap();
    let table = parents.iter().fold(&raw.root, |table, key| match &table.get(key).unwrap().item.value {
        Value::Table(table) => table,
        _ => panic!("{key} is no table"),
    });
    table.get(last).unwrap().item.words()
}

#[test]
fn what_is_no_toml_is_shown_with_its_line() {
    let error = Raw::parse("x.toml", "name = \"a\"\nseeds = [1,\n[model]\n".into()).unwrap_err().to_string();
    assert!(error.starts_with("x.toml:"), "{error}");
    assert!(error.contains("this is not TOML"), "{error}");
    let twice = Raw::parse("x.toml", "a = 1\na = 2\n".into()).unwrap_err().to_string();
    assert!(twice.starts_with("x.toml:2: "), "{twice}");
    assert!(twice.ends_with("\n  2 | a = 2\n    | ^"), "{twice}");
}

#[test]
fn entries_keep_the_order_of_the_file() {
    let raw = raw("[methods.zeta]\n[methods.alpha]\n[methods.zeta.training]\nmax_steps = 1\n");
    let Value::Table(methods) = &raw.root.get("methods").unwrap().item.value else { panic!() };
    let names: Vec<&str> = methods.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(names, ["zeta", "alpha"]);
}

#[test]
fn overrides_are_toml_or_strings() {
    let mut raw = raw("threads = 4\n[data]\npath = \"a\"\n");
    for argument in ["threads=2", "data.path=/some where/b", "training.learning_rate=1e-3", "seeds=[1, 2]"] {
        raw.set(argument).unwrap();
    }
    assert_eq!(words(&raw, &["threads"]), "2");
    assert_eq!(words(&raw, &["data", "path"]), "\"/some where/b\"");
    assert_eq!(words(&raw, &["training", "learning_rate"]), "0.001");
    assert_eq!(words(&raw, &["seeds"]), "a list");
    raw.set("methods.\"a.b\".r=3").unwrap();
    assert_eq!(words(&raw, &["methods", "a.b", "r"]), "3");
}

#[test]
fn a_path_takes_the_place_of_the_files_name_and_a_name_of_its_path() {
    let keys = |text: &str, arguments: &[&str]| -> Vec<String> {
        let mut raw = raw(text);
        arguments.iter().for_each(|argument| raw.set(argument).unwrap());
        let Value::Table(model) = &raw.root.get("model").unwrap().item.value else { panic!() };
        model.entries.iter().map(|entry| entry.key.clone()).collect()
    };
    let named = "[model]\nname = \"a/b\"\nrevision = \"v1\"\nreinitialise = true\n";
    assert_eq!(keys(named, &["model.path=x"]), ["reinitialise", "path"]);
    assert_eq!(keys(named, &["model.revision=v2"]), ["name", "revision", "reinitialise"]);
    assert_eq!(keys(named, &["model.name=c/d"]), ["name", "reinitialise"]);
    let by_path = "[model]\npath = \"x\"\n";
    assert_eq!(keys(by_path, &["model.name=a/b", "model.revision=v1"]), ["name", "revision"]);
    assert_eq!(keys(by_path, &["model.name=a/b", "model.path=x"]), ["name", "path"]);
}

#[test]
fn a_wrong_override_names_its_argument() {
    let mut raw = raw("threads = 4\n");
    let mut error = |argument: &str| raw.set(argument).unwrap_err().to_string();
    assert_eq!(error("threads"), "--set threads: an override is written key.path=value");
    assert_eq!(error("threads.x=1"), "--set threads.x=1: `threads` is no table, so it has no key `x`");
    assert!(error("a b=1").contains("not a path of keys"));
    assert!(error("threads=99999999999999999999").contains("64 bits"));
}

#[test]
fn a_list_of_methods_takes_overrides_of_each() {
    let mut listed = raw("methods = [\"b\", \"a\"]\n");
    listed.set("methods.a.r=4").unwrap();
    assert!(!listed.all_methods);
    let Value::Table(methods) = &listed.root.get("methods").unwrap().item.value else { panic!() };
    let names: Vec<&str> = methods.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(names, ["b", "a"]);
    assert_eq!(words(&listed, &["methods", "a", "r"]), "4");
    let error = raw("methods = [\"b\", 3]\n").set("methods.b.r=4").unwrap_err().to_string();
    assert!(error.contains("`methods` is no table"), "{error}");
}

#[test]
fn an_override_of_one_method_leaves_the_others() {
    let mut all = raw("methods = \"all\"\n");
    all.set("methods.a.r=1").unwrap();
    assert!(all.all_methods);
    let mut absent = raw("");
    absent.set("methods.a.r=1").unwrap();
    absent.set("methods.b.r=1").unwrap();
    assert!(absent.all_methods);
    let mut named = raw("[methods.b]\n");
    named.set("methods.a.r=1").unwrap();
    assert!(!named.all_methods);
}
