use plugin_sdk::host_ir::task::{Container, FieldValue};
use plugin_sdk::testing::{self, MINILM, Setting, TaskUnderTest};

use super::*;

const TEXT: &str = "\
#begin document (a); part 000
a 0 0 Ann NNP * - - - Bob * (0)
a 0 1 saw VBD * - - - Bob * -
a 0 2 her PRP * - - - Bob * (1(0)
a 0 3 dog NN * - - - Bob * 1)

a 0 0 It PRP * - - - - * (1)
#end document
";

fn parsed(text: &str) -> (TaskUnderTest, plugin_sdk::host_ir::task::Parsed) {
    let task = TaskUnderTest::new::<Conll2012>(&[]).unwrap();
    let parsed = task.parse::<Conll2012>("dev", Container::Documents, text).unwrap();
    (task, parsed)
}

#[test]
fn a_document_is_an_example() {
    let (_, parsed) = parsed(TEXT);
    let [example] = parsed.examples.as_slice() else { panic!("{parsed:?}") };
    let [name, Some(FieldValue::Text(text)), words, sentences, speakers, genre, mentions] =
        example.values.as_slice()
    else {
        panic!("{example:?}")
    };
    assert_eq!(*name, Some(FieldValue::Text("(a); part 000".into())));
    assert!(text.contains("a\t0\t2\ther\tPRP\t*\t-\t-\t-\tBob\t*\t-\n"), "no gold in the input: {text}");
    let list = ["Ann", "saw", "her", "dog", "It"].map(String::from).to_vec();
    assert_eq!(*words, Some(FieldValue::Words(list)));
    assert_eq!(*sentences, Some(FieldValue::WordNumbers(vec![1, 1, 1, 1, 2])));
    assert_eq!(*speakers, Some(FieldValue::WordNumbers(vec![1, 1, 1, 1, 0])));
    assert_eq!(*genre, Some(FieldValue::WordNumbers(vec![0; 5])));
    let spans = vec![[0, 0, 0], [2, 2, 0], [2, 3, 1], [4, 4, 1]];
    assert_eq!(*mentions, Some(FieldValue::Spans(spans)));
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let (_, parsed) = parsed(&TEXT.replace("(1(0)", "1)"));
    assert_eq!(
        parsed.rejected,
        [
            "data:1: in the document that begins here, line 4: a mention of the entity 1 ends that has not begun"
        ]
    );
}

#[test]
fn links_become_entities() {
    // Spans of at most 4 words: 0, 2, 2 to 3, 4.
    let places = [0, 8, 9, 16];
    let found = linked(&places, &[0, 0, 0, 2], &[-1e9, 0.5, -0.5, 2.0], 4);
    assert_eq!(found, [(0, 0, 0), (2, 2, 0), (2, 3, 1), (4, 4, 1)]);
    assert!(linked(&places, &[0; 4], &[-1.0; 4], 4).is_empty(), "what nothing is linked to is no mention");
}

#[test]
fn perfect_links_score_one() {
    let (task, parsed) = parsed(TEXT);
    task.plan::<Conll2012>(&testing::bert(MINILM)).unwrap();
    let places = [0, 24, 25, 48].map(|place| place as f32).to_vec();
    let outputs = vec![vec![places, vec![0.0, 0.0, 0.0, 2.0], vec![-1e9, 1.0, -1.0, 1.0]]];
    let names = ["place", "antecedent", "score"];
    let metrics = task.metrics::<Conll2012>(&names, parsed.examples, outputs).unwrap();
    assert_eq!(metrics.len(), 9);
    for (name, value) in metrics {
        // No two mentions of the document have the same words.
        let wanted = if name == "same_string_conll_f1" { 0.0 } else { 1.0 };
        assert!((value - wanted).abs() < 1e-12, "{name} {value}");
    }
}

#[test]
fn the_baseline_links_gold_mentions_with_the_same_words() {
    let words = ["The", "dog", "saw", "the", "dog", "and", "it"].map(String::from);
    let gold = [(0, 1, 4), (1, 1, 2), (3, 4, 7), (6, 6, 4)];
    assert_eq!(same_string(&words, &gold), [vec![(0, 1), (3, 4)]]);
}

#[test]
fn a_genre_is_a_part_of_the_name() {
    let genres = ["bc", "nw"].map(String::from);
    assert_eq!(genre("(nw/wsj/00/wsj_0001); part 000", &genres), 2);
    assert_eq!(genre("(bcx/nwy); part 000", &genres), 0);
}

#[test]
fn the_sample_can_be_read() {
    let samples = TaskUnderTest::new::<Conll2012>(&[]).unwrap().samples::<Conll2012>().unwrap();
    let counts: Vec<(&str, usize)> =
        samples.iter().map(|(split, examples)| (split.as_str(), examples.len())).collect();
    assert_eq!(counts, [("dev", 2), ("test", 1), ("train", 4)]);
}

#[test]
fn the_graph_reads_documents_one_at_a_time() {
    let task = TaskUnderTest::new::<Conll2012>(&[("mention_loss", Setting::Real(1.0))]).unwrap();
    let plan = task.plan::<Conll2012>(&testing::bert(MINILM)).unwrap();
    assert!(plan.reads_examples_alone());
    assert_eq!(plan.sequences[0].words, Some(("words".into(), 32)));
    assert_eq!(plan.losses.len(), 2);
    let most = plan.graph.nodes.iter().map(|node| node.shape.rank()).max().unwrap();
    assert_eq!(most, 2, "no value has more than two axes");
    let elements: usize =
        plan.parameters.iter().map(|parameter| plan.graph.shape(parameter.initial).elements().unwrap()).sum();
    assert_eq!(elements, 4 * (384 * 384 + 3 * 384) + 2 * 384 + 384 * 384 + 768 * 768 + 768 * 8 + 8 + 1);
}

/// The graph that the engine's tests hold against PyTorch is this plugin's.
/// With UPDATE_GOLDEN set, it is written.
#[test]
fn the_graph_is_the_one_that_is_held_against_pytorch() {
    let settings = [
        ("max_span_width", Setting::Whole(3)),
        ("spans_per_thousand_words", Setting::Whole(500)),
        ("head_size", Setting::Whole(8)),
        ("head_dropout", Setting::Real(0.25)),
        ("mention_loss", Setting::Real(0.5)),
        ("genres", Setting::Texts(["bc", "nw"].map(String::from).to_vec())),
    ];
    let task = TaskUnderTest::new::<Conll2012>(&settings).unwrap();
    let sizes = testing::Sizes { hidden: 32, ..MINILM };
    let mut plan = task.plan::<Conll2012>(&testing::bert(sizes)).unwrap();
    plan.graph.nodes.iter_mut().for_each(|node| node.place = None);
    let text = serde_json::to_string(&plan).unwrap() + "\n";
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let path = root.join("tests/golden/coreference/plan.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert!(
        text == golden,
        "the graph has changed: run this test with UPDATE_GOLDEN=1 and the engine's tests"
    );
}
