//! The graph over the words' hidden states: coreference from the starts and
//! ends of spans (Kirstain et al. 2021, "Coreference resolution without span
//! representations"), with distances between spans and speakers added.

use plugin_sdk::node::{Node, concat, full, normal, ones, whole_numbers, zeros};
use plugin_sdk::words;

/// What is added to the score of a pair or a span that is none.
const IMPOSSIBLE: f64 = 1e9;
/// Distances in words, from each of which on a pair is scored otherwise.
const DISTANCES: [i32; 8] = [4, 8, 16, 32, 64, 128, 256, 512];

/// Sizes of the graph.
pub struct Head {
    pub max_tokens: u32,
    pub shared_words: u32,
    /// The most words of a span.
    pub width: u32,
    pub spans_per_thousand_words: u32,
    /// Size of the hidden layers.
    pub size: u32,
    pub dropout: f64,
    pub mention_loss: f64,
    pub speakers: bool,
    /// Kinds of text that are told apart.
    pub genres: u32,
}

/// Spans that are kept of a document, all `[spans]`.
struct Candidates {
    /// The places of their scores in [words, width].
    places: Node,
    starts: Node,
    ends: Node,
    scores: Node,
    /// The scores of all spans, [words, width], and 1 where there is such a span.
    of_all: Node,
    possible: Node,
}

impl Head {
    pub fn plan(&self) {
        let states = words::states("words", self.max_tokens, self.shared_words);
        let candidates = self.candidates(states);
        let scores = self.antecedents(states, &candidates);
        let gold = words::spans_of("mentions", self.width);
        words::loss(negative_log_likelihood(scores, gold.elements(candidates.places)));
        if self.mention_loss > 0.0 {
            // The sum over spans, for each candidate as the other loss is.
            let spans_per_candidate =
                f64::from(self.width) * 1000.0 / f64::from(self.spans_per_thousand_words);
            let loss = mention_loss(candidates.of_all, gold) * candidates.possible;
            words::loss(loss * (self.mention_loss * spans_per_candidate));
        }
        words::output("place", candidates.places);
        words::output("antecedent", scores.arg_max(1));
        words::output("score", scores.largest_over(1, false));
    }

    /// A hidden layer with GELU, layer norm and dropout, [words, size].
    fn layer(&self, states: Node, name: &str) -> Node {
        let inputs = states.shape()[1];
        let deviation = 1.0 / f64::from(inputs).sqrt();
        let weight = words::parameter(&format!("{name}.weight"), normal([self.size, inputs], 0.0, deviation));
        let bias = words::parameter(&format!("{name}.bias"), zeros([self.size]));
        let gain = words::parameter(&format!("{name}.norm.weight"), ones([self.size]));
        let shift = words::parameter(&format!("{name}.norm.bias"), zeros([self.size]));
        let active = (states.matmul(weight.t()) + bias).gelu();
        let centred = active - active.mean([1], true);
        let normed = centred / (active.deviation([1], true) + 1e-5) * gain + shift;
        normed.dropout(self.dropout)
    }

    /// The spans with the best mention scores (eq. 2):
    /// `v_s m_s(start) + v_e m_e(end) + m_s(start) B m_e(end)`.
    fn candidates(&self, states: Node) -> Candidates {
        let (starts, ends) = (self.layer(states, "mentions.start"), self.layer(states, "mentions.end"));
        let vector = |name: &str| {
            let deviation = 1.0 / f64::from(self.size).sqrt();
            words::parameter(name, normal([self.size, 1], 0.0, deviation))
        };
        let bilinear = words::parameter(
            "mentions.pair.weight",
            normal([self.size, self.size], 0.0, 1.0 / f64::from(self.size)),
        );
        let of_start = starts.matmul(vector("mentions.start.score.weight"));
        let of_end = ends.matmul(vector("mentions.end.score.weight"));
        let turned = starts.matmul(bilinear);
        let sentences = words::numbers_of("sentence");
        let (mut columns, mut possible) = (Vec::new(), Vec::new());
        for further in 0..self.width as i32 {
            let pair = (turned * ends.shift(further)).sum([1], true);
            columns.push(of_start + of_end.shift(further) + pair);
            // A span does not cross the end of a sentence, nor that of the document.
            let one_sentence = sentences.equal(sentences.shift(further));
            possible.push(column(one_sentence));
        }
        let (of_all, possible) = (concat(&columns, 1), concat(&possible, 1));
        let scores = of_all + (possible - 1.0) * IMPOSSIBLE;
        let places = scores.largest(self.spans_per_thousand_words);
        let starts = places.quotient(self.width);
        let ends = starts + places.remainder(self.width);
        Candidates { places, starts, ends, scores: scores.elements(places), of_all, possible }
    }

    /// Scores of each span's antecedents, [spans, spans] (eq. 3 and 4): the
    /// logarithms of the probabilities that both are mentions, and a bilinear form
    /// of their starts and ends; that of no antecedent is 0. Spans that are no
    /// earlier ones are impossible.
    ///
    /// The paper adds the mention scores themselves. Where a loss of their own makes
    /// those of mentions large, any two mentions would be linked until the bilinear
    /// form has learned to forbid it.
    fn antecedents(&self, states: Node, candidates: &Candidates) -> Node {
        let starts = self.layer(states, "antecedents.start").rows(candidates.starts);
        let ends = self.layer(states, "antecedents.end").rows(candidates.ends);
        let spans = concat(&[starts, ends], 1);
        let size = 2 * self.size;
        let bilinear =
            words::parameter("antecedents.pair.weight", normal([size, size], 0.0, 1.0 / f64::from(size)));
        let mut scores = spans.matmul(bilinear).matmul(spans.t());
        let mentions = column(-softplus(-candidates.scores));
        scores = scores + mentions + mentions.t();
        scores = scores + self.distances(spans, candidates);
        if self.speakers {
            let speaker = column(words::numbers_of("speaker").elements(candidates.starts));
            let weight = words::parameter("antecedents.speaker.weight", zeros([1, 1]));
            let known = whole_numbers([1, 1], &[0]).less(speaker);
            scores = scores + speaker.equal(speaker.t()) * known * weight;
        }
        if self.genres > 0 {
            scores = scores + self.genre(spans, candidates);
        }
        let order = column(candidates.places.positions(0));
        let earlier = order.t().less(order);
        scores + (earlier - 1.0) * IMPOSSIBLE
    }

    /// What each span thinks of antecedents that are so many words away, [spans, spans].
    fn distances(&self, spans: Node, candidates: &Candidates) -> Node {
        let starts = column(candidates.starts);
        let away =
            |place: u32| (starts.t() + whole_numbers([1, 1], &[DISTANCES[place as usize] - 1])).less(starts);
        self.opinions(spans, "antecedents.distance", DISTANCES.len() as u32, away)
    }

    /// What each span thinks of antecedents in a text of the document's genre, [spans, 1].
    fn genre(&self, spans: Node, candidates: &Candidates) -> Node {
        let genre = column(words::numbers_of("genre").elements(candidates.starts));
        let is = |place: u32| genre.equal(whole_numbers([1, 1], &[place as i32 + 1]));
        self.opinions(spans, "antecedents.genre", self.genres, is)
    }

    /// A score of each span for each of so many cases, where the case holds: the sum of
    /// those that do.
    fn opinions(&self, spans: Node, name: &str, cases: u32, holds: impl Fn(u32) -> Node) -> Node {
        let deviation = 1.0 / f64::from(2 * self.size).sqrt();
        let weight =
            words::parameter(&format!("{name}.weight"), normal([2 * self.size, cases], 0.0, deviation));
        let bias = words::parameter(&format!("{name}.bias"), zeros([cases]));
        let opinions = spans.matmul(weight) + bias;
        let term = |place: u32| holds(place) * opinions.slice(1, place, 1);
        (1..cases).fold(term(0), |sum, place| sum + term(place))
    }
}

/// `[n]` as `[n, 1]`.
fn column(value: Node) -> Node {
    value.reshape([value.shape()[0], 1])
}

/// `-log` of the probability that a span's antecedent is any of the right ones,
/// `[spans]` (Lee et al. 2017, eq. 7): right are earlier spans of the same entity,
/// and where there are none, no antecedent.
fn negative_log_likelihood(scores: Node, gold: Node) -> Node {
    let gold = column(gold);
    let mention = whole_numbers([1, 1], &[0]).less(gold);
    let same = gold.equal(gold.t()) * mention;
    let order = column(gold.positions(0));
    let right = same * order.t().less(order);
    let none = right.sum([1], true).equal(full([1, 1], 0.0));
    let nobody = none * 0.0;
    let all = concat(&[scores.log_sum_exp(1, true), nobody], 1).log_sum_exp(1, false);
    let of_right = (scores + (right - 1.0) * IMPOSSIBLE).log_sum_exp(1, true);
    let of_none = (none - 1.0) * IMPOSSIBLE;
    all - concat(&[of_right, of_none], 1).log_sum_exp(1, false)
}

/// Binary cross-entropy of the scores of spans, `[words, width]`, gold mentions being 1.
fn mention_loss(scores: Node, gold: Node) -> Node {
    let mention = whole_numbers([1, 1], &[0]).less(gold);
    softplus(scores) - scores * mention
}

/// `log(1 + exp(x))`, without an overflow where x is large.
fn softplus(x: Node) -> Node {
    x.relu() + ((x.abs() * -1.0).exp() + 1.0).log()
}
