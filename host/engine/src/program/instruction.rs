//! The instructions of a program. Each is one operation over the whole packed
//! batch; how it is shared among threads or devices is the backend's business.
//!
//! A value may have several writers that add to it in place (`Linear`, then
//! `AddBias`, then `LowRank`): their gradient is the same buffer, so that the
//! reverse pass needs no copies. An output marked `accumulate` is added to,
//! otherwise it is written.

use std::sync::Arc;

use host_ir::graph::{Binary, Compare, Unary};

use crate::program::absorb::{Absorbed, AbsorbedBackward};
use crate::program::attend::{Attend, AttendBackward, AttendRecalled};
use crate::program::relative::{Buckets, Terms};
use crate::program::value::ValueId;

pub use crate::program::operand::{Activation, Dropout, Fold, Integers, RowChoice, Scalar};

/// One operation. Shapes are those of the values.
#[derive(Clone, Debug, PartialEq, strum::IntoStaticStr)]
pub enum Instruction {
    /// `out[row]` = factor * `word[id]` + `position[position]` + `token_type[type]`;
    /// virtual rows take the prompt's instead of the word's, as it is. The row of the
    /// padding token gets no gradient, as `padding_idx` of torch.nn.Embedding says.
    Embed {
        word: ValueId,
        factor: f32,
        padding: Option<u32>,
        position: Option<ValueId>,
        token_type: Option<ValueId>,
        prompt: Option<ValueId>,
        out: ValueId,
    },
    /// Adds the gradient of `Embed` to those tables that want it.
    EmbedBackward {
        gradient: ValueId,
        word: Option<ValueId>,
        factor: f32,
        padding: Option<u32>,
        position: Option<ValueId>,
        token_type: Option<ValueId>,
        prompt: Option<ValueId>,
    },
    /// y[:, first_column..] = x weight^T, for weight [out, in].
    Linear {
        x: ValueId,
        weight: ValueId,
        y: ValueId,
        first_column: usize,
    },
    /// dx (+)= dy[:, first_column..] weight.
    LinearInputGradient {
        dy: ValueId,
        weight: ValueId,
        dx: ValueId,
        first_column: usize,
        accumulate: bool,
    },
    /// dweight (+)= dy[:, first_column..]^T x.
    LinearWeightGradient {
        dy: ValueId,
        x: ValueId,
        dweight: ValueId,
        first_column: usize,
        accumulate: bool,
    },
    /// y[:, first_column..] += bias.
    AddBias {
        y: ValueId,
        bias: ValueId,
        first_column: usize,
    },
    /// dbias (+)= sum of dy[:, first_column..] over rows.
    ColumnSums {
        dy: ValueId,
        dbias: ValueId,
        first_column: usize,
        accumulate: bool,
    },
    /// hidden = dropout(x) a^T; y[:, first_column..] += scale * hidden b^T
    /// (Hu et al. 2021, eq. 3), for a [rank, in], b [out, rank].
    LowRank {
        x: ValueId,
        a: ValueId,
        b: ValueId,
        hidden: ValueId,
        y: ValueId,
        first_column: usize,
        scale: f32,
        dropout: Option<Dropout>,
    },
    /// Gradients of `LowRank`; `da` and `db` are added to.
    LowRankBackward {
        dy: ValueId,
        x: Option<ValueId>,
        a: ValueId,
        b: ValueId,
        hidden: ValueId,
        /// Working memory, [rows, rank].
        dhidden: ValueId,
        da: Option<ValueId>,
        db: Option<ValueId>,
        /// The input's gradient, and whether it is added to.
        dx: Option<(ValueId, bool)>,
        first_column: usize,
        scale: f32,
        dropout: Option<Dropout>,
    },
    /// v = dropout(y + bias) + residual; normalized = (v - mean) / deviation
    /// over the last axis; out = after(normalized * gain + shift).
    Norm {
        y: ValueId,
        bias: Option<ValueId>,
        residual: Option<ValueId>,
        dropout: Option<Dropout>,
        gain: ValueId,
        shift: ValueId,
        epsilon: f32,
        /// In place of `y`.
        normalized: ValueId,
        /// One by the deviation, `[rows]`.
        scale: ValueId,
        out: ValueId,
        after: Option<Dropout>,
    },
    /// out = after(normalized * gain + shift): the norm's output once more.
    Recover {
        normalized: ValueId,
        gain: ValueId,
        shift: ValueId,
        out: ValueId,
        after: Option<Dropout>,
    },
    /// Gradients of `Norm`: `dv` before the residual is added, `dy` before
    /// dropout. Those of gain, shift and bias are added to.
    NormBackward {
        dout: ValueId,
        normalized: ValueId,
        scale: ValueId,
        gain: ValueId,
        dropout: Option<Dropout>,
        after: Option<Dropout>,
        dv: ValueId,
        dy: Option<ValueId>,
        dgain: Option<ValueId>,
        dshift: Option<ValueId>,
        dbias: Option<ValueId>,
    },
    /// out = activation(x + bias). A backend may leave the derivative at `slope`, which
    /// is in place of `x`.
    Activate {
        x: ValueId,
        bias: Option<ValueId>,
        out: ValueId,
        activation: Activation,
        slope: Option<ValueId>,
    },
    /// dx = dout * activation'(x + bias), or `slope` where the backend has left it there;
    /// `dx` may be in place of `dout`.
    ActivateBackward {
        dout: ValueId,
        x: ValueId,
        bias: Option<ValueId>,
        dx: ValueId,
        activation: Activation,
        slope: Option<ValueId>,
    },
    /// Softmax attention within each sequence (Vaswani et al. 2017, eq. 1)
    /// over queries, keys and values side by side, [rows, 3 * heads * size].
    /// `log_sums` are the scores' log-sum-exp, [heads, rows]. A backend may keep the
    /// probabilities of short sequences in `kept`.
    Attention {
        qkv: ValueId,
        heads: usize,
        out: ValueId,
        log_sums: ValueId,
        kept: Option<ValueId>,
        dropout: Option<Dropout>,
    },
    /// Gradient of `Attention`, of all rows or, where `dqkv` has those alone, of the
    /// virtual ones; probabilities that were not kept are computed again.
    AttentionBackward {
        dout: ValueId,
        qkv: ValueId,
        log_sums: ValueId,
        kept: ValueId,
        heads: usize,
        dqkv: ValueId,
        dropout: Option<Dropout>,
    },
    /// The rows of a table of relative positions that the batch's longest
    /// sequence reaches, in the order of key's place minus query's.
    ReachedRows {
        table: ValueId,
        out: ValueId,
        buckets: Buckets,
    },
    /// dtable[reached rows] += dout.
    ReachedRowsBackward {
        dout: ValueId,
        dtable: ValueId,
        buckets: Buckets,
    },
    /// `Attention` with further scores by relative positions (He et al. 2021,
    /// eq. 4). `positions` [reached rows, parts * heads * size] hold the queries of
    /// positions before their keys, those that `terms` has.
    Disentangled {
        qkv: ValueId,
        positions: ValueId,
        heads: usize,
        buckets: Buckets,
        terms: Terms,
        out: ValueId,
        log_sums: ValueId,
        dropout: Option<Dropout>,
    },
    /// Gradients of `Disentangled`.
    DisentangledBackward {
        dout: ValueId,
        qkv: ValueId,
        positions: ValueId,
        log_sums: ValueId,
        heads: usize,
        buckets: Buckets,
        terms: Terms,
        dqkv: ValueId,
        dpositions: Option<ValueId>,
        dropout: Option<Dropout>,
    },
    Attend(Attend),
    AttendBackward(AttendBackward),
    AttendRecalled(AttendRecalled),
    Absorbed(Absorbed),
    AbsorbedBackward(AbsorbedBackward),
    /// out = after(x / sqrt(mean x² + epsilon) * gain) over the last axis (Zhang and
    /// Sennrich 2019); `scale` is one by the root, `[rows]`.
    RmsNorm {
        x: ValueId,
        gain: ValueId,
        epsilon: f32,
        scale: ValueId,
        out: ValueId,
        after: Option<Dropout>,
    },
    /// Gradients of `RmsNorm`; that of the gain is added to.
    RmsNormBackward {
        dout: ValueId,
        x: ValueId,
        scale: ValueId,
        gain: ValueId,
        after: Option<Dropout>,
        dx: ValueId,
        dgain: Option<ValueId>,
    },
    /// out = activation(first half of the columns of x) * second half.
    Gate {
        x: ValueId,
        out: ValueId,
        activation: Activation,
    },
    GateBackward {
        dout: ValueId,
        x: ValueId,
        dx: ValueId,
        activation: Activation,
    },
    /// Chosen rows of the packed batch.
    TakeRows {
        x: ValueId,
        out: ValueId,
        choice: RowChoice,
    },
    /// dx[chosen rows] += dout; `dx` is cleared first unless it accumulates.
    TakeRowsBackward {
        dout: ValueId,
        dx: ValueId,
        choice: RowChoice,
        accumulate: bool,
    },
    /// out = x where the mask keeps it, divided by 1 - probability.
    Dropout {
        x: ValueId,
        out: ValueId,
        dropout: Dropout,
    },
    /// `losses[row]` = -log softmax(`logits[row]`)`[label]`; `log_sums` `[rows]` are the
    /// logits' log-sum-exp.
    CrossEntropy {
        logits: ValueId,
        labels: Integers,
        losses: ValueId,
        log_sums: ValueId,
    },
    /// dlogits = (softmax(logits) - one at the label) * `dlosses[row]`.
    CrossEntropyBackward {
        logits: ValueId,
        labels: Integers,
        log_sums: ValueId,
        dlosses: ValueId,
        dlogits: ValueId,
    },
    /// Adds the sum of all elements to the loss with this number.
    SumLoss {
        x: ValueId,
        loss: usize,
    },
    /// out = scalar everywhere.
    Fill {
        out: ValueId,
        scalar: Scalar,
    },
    /// out = the constants.
    Constant {
        out: ValueId,
        values: Arc<[f64]>,
    },
    /// out (+)= x, of one shape.
    Copy {
        x: ValueId,
        out: ValueId,
        accumulate: bool,
    },
    Unary {
        function: Unary,
        x: ValueId,
        out: ValueId,
    },
    /// dx = dy * function'(x), with y = function(x).
    UnaryBackward {
        function: Unary,
        x: ValueId,
        y: ValueId,
        dy: ValueId,
        dx: ValueId,
    },
    Affine {
        x: ValueId,
        factor: f32,
        offset: f32,
        out: ValueId,
    },
    Power {
        x: ValueId,
        exponent: f32,
        out: ValueId,
    },
    /// Element by element, broadcast.
    Binary {
        function: Binary,
        a: ValueId,
        b: ValueId,
        out: ValueId,
    },
    /// out = dy where a > b (or a < b), half of it where they are equal, else 0.
    Winner {
        a: ValueId,
        b: ValueId,
        dy: ValueId,
        out: ValueId,
        larger: bool,
    },
    /// out (+)= x summed over the axes along which `out` has size 1.
    Fold {
        fold: Fold,
        x: ValueId,
        out: ValueId,
        accumulate: bool,
    },
    Permute {
        x: ValueId,
        axes: Vec<usize>,
        out: ValueId,
    },
    /// Copies the places from `start` on of `x`'s axis to those from `to` on of
    /// `out`'s, as many as the smaller has.
    CopyRange {
        x: ValueId,
        out: ValueId,
        axis: usize,
        start: usize,
        to: usize,
        accumulate: bool,
    },
    /// out (+)= a b over the last two axes, each transposed if so marked.
    Matmul {
        a: ValueId,
        b: ValueId,
        out: ValueId,
        transpose: (bool, bool),
        accumulate: bool,
    },
    /// out = rows of `table`, first axis, by constants.
    Rows {
        table: ValueId,
        indices: Arc<[i32]>,
        out: ValueId,
    },
    /// `dtable[index]` += `dout[row]`.
    RowsBackward {
        dout: ValueId,
        indices: Arc<[i32]>,
        dtable: ValueId,
        accumulate: bool,
    },
    /// out = the integers, as real numbers.
    Integers {
        source: Integers,
        out: ValueId,
    },
    /// `out[row]` (+)= `x[row + by]` along the first axis, 0 where there is none.
    Shift {
        x: ValueId,
        by: i32,
        out: ValueId,
    },
    /// `out[place]` = place.
    Positions {
        out: ValueId,
    },
    /// out = the whole part of x by the divisor, or what remains.
    DivideWhole {
        x: ValueId,
        divisor: u32,
        remainder: bool,
        out: ValueId,
    },
    /// out = 1 where the comparison holds, else 0; broadcast.
    Compare {
        compare: Compare,
        a: ValueId,
        b: ValueId,
        out: ValueId,
    },
    /// out = ascending row-major places of the largest elements, as many as `out` has.
    Largest {
        x: ValueId,
        out: ValueId,
    },
    /// out = the first place along the axis that has the largest element.
    ArgMax {
        x: ValueId,
        axis: usize,
        out: ValueId,
    },
    /// out = parts of `table` by places; the first `axes` axes are counted in
    /// row-major order, and the others are a part.
    Gather {
        table: ValueId,
        places: ValueId,
        axes: usize,
        out: ValueId,
    },
    /// `dtable[place]` += `dout[part]`.
    GatherBackward {
        dout: ValueId,
        places: ValueId,
        axes: usize,
        dtable: ValueId,
        accumulate: bool,
    },
}
