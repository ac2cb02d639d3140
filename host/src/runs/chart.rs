//! Charts as SVG for the report: lines and points over two axes. Colours come
//! from the page's style by class, `c0`, `c1` and so on.

use std::fmt::Write;

/// Colours that the page has; further series begin again, dashed and with rings for dots.
pub const COLOURS: usize = 8;

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 290.0;
const LEFT: f64 = 66.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 46.0;

/// How a chart draws its series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A line through the points.
    Lines,
    /// Points with their names beside them, over a logarithmic axis.
    Points,
}

/// Points of one colour.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    pub name: String,
    /// Its place among the methods, which is its colour.
    pub colour: usize,
    pub points: Vec<(f64, f64)>,
}

/// An axis: its range, in logarithms where it is logarithmic, and its ticks.
struct Axis {
    low: f64,
    high: f64,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// Where a value stands, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    fn linear(values: impl Iterator<Item = f64>, wanted: f64) -> Axis {
        let (low, high) = range(values);
        // Around a single value, and not below zero for what is not.
        let margin = if low == 0.0 { 0.5 } else { low.abs() / 2.0 };
        let (low, high) = if low == high { (low - margin, high + margin) } else { (low, high) };
        let step = nice((high - low) / wanted);
        let (first, last) = ((low / step).floor() as i64, (high / step).ceil() as i64);
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        let tick = |place: i64| (place as f64 * step, format!("{:.decimals$}", place as f64 * step));
        Axis { low: first as f64 * step, high: last as f64 * step, ticks: (first..=last).map(tick).collect() }
    }

    fn logarithmic(values: impl Iterator<Item = f64>) -> Axis {
        let (low, high) = range(values.map(|value| value.max(1.0).log10()));
        // A margin, so that no point stands on the frame.
        let (low, high) = (low - 0.35, high + 0.35);
        let powers = low.ceil() as i32..=high.floor() as i32;
        Axis { low, high, ticks: powers.map(|power| (f64::from(power), magnitude(power))).collect() }
    }
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
}

/// The next of 1, 2 and 5 times a power of ten.
fn nice(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= step * 0.999);
    factor.unwrap_or(10.0) * power
}

/// A power of ten: `100`, `10k`, `1M`.
fn magnitude(power: i32) -> String {
    let unit = ["", "k", "M", "G", "T"].get((power.max(0) / 3) as usize).unwrap_or(&"");
    format!("{}{unit}", 10i64.pow(power.max(0) as u32 % 3))
}

/// A chart, or none where there is nothing to draw. Points that are not finite
/// are left out.
pub fn chart(form: Form, x_title: &str, y_title: &str, series: &[Series]) -> Option<String> {
    let finite = |series: &Series| -> Vec<(f64, f64)> {
        let points = series.points.iter().copied();
        points.filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
    };
    let series: Vec<(&Series, Vec<(f64, f64)>)> =
        series.iter().map(|series| (series, finite(series))).collect();
    let all = || series.iter().flat_map(|(_, points)| points.iter().copied());
    all().next()?;
    let y = Axis::linear(all().map(|(_, y)| y), 5.0);
    let x = match form {
        Form::Lines => Axis::linear(all().map(|(x, _)| x), 6.0),
        Form::Points => Axis::logarithmic(all().map(|(x, _)| x)),
    };
    let scaled = |value: f64| if form == Form::Points { value.max(1.0).log10() } else { value };
    let across = |value: f64| LEFT + x.place(value) * (WIDTH - LEFT - RIGHT);
    let down = |value: f64| HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM);

    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{} against {}\">",
        escape(y_title),
        escape(x_title)
    );
    for (value, label) in &y.ticks {
        let at = down(*value);
        let (end, text, below) = (WIDTH - RIGHT, LEFT - 8.0, at + 4.0);
        push(
            &mut svg,
            format_args!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{end}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"tick\" text-anchor=\"end\" x=\"{text}\" y=\"{below:.1}\">{label}</text>"
            ),
        );
    }
    for (value, label) in &x.ticks {
        let (at, text) = (across(*value), HEIGHT - BOTTOM + 18.0);
        push(
            &mut svg,
            format_args!(
                "<text class=\"tick\" text-anchor=\"middle\" x=\"{at:.1}\" y=\"{text}\">{label}</text>"
            ),
        );
    }
    let (middle, foot, half) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 6.0, (HEIGHT - BOTTOM + TOP) / 2.0);
    push(
        &mut svg,
        format_args!(
            "<text class=\"title\" text-anchor=\"middle\" x=\"{middle}\" y=\"{foot}\">{}</text>\
         <text class=\"title\" text-anchor=\"middle\" transform=\"translate(13 {half}) rotate(-90)\">{}</text>",
            escape(x_title),
            escape(y_title)
        ),
    );
    let mut names = Names::default();
    for (series, points) in &series {
        let colour = format!("c{}", series.colour % COLOURS);
        let (dashed, ring) = if series.colour >= COLOURS { (" dashed", " ring") } else { ("", "") };
        let name = escape(&series.name);
        if form == Form::Lines && points.len() > 1 {
            let path: Vec<String> =
                points.iter().map(|&(x, y)| format!("{:.1},{:.1}", across(x), down(y))).collect();
            push(
                &mut svg,
                format_args!(
                    "<polyline class=\"line {colour}{dashed}\" points=\"{}\"><title>{name}</title></polyline>",
                    path.join(" ")
                ),
            );
        }
        if form == Form::Points || points.len() <= 24 {
            let radius = if form == Form::Points { 5.5 } else { 2.5 };
            for &(x, y) in points {
                let (at, level) = (across(scaled(x)), down(y));
                push(
                    &mut svg,
                    format_args!(
                        "<circle class=\"dot {colour}{ring}\" cx=\"{at:.1}\" cy=\"{level:.1}\" r=\"{radius}\">\
                     <title>{name}: {y:.4}</title></circle>"
                    ),
                );
            }
        }
        if let (Form::Points, Some(&(x, y))) = (form, points.first()) {
            let (anchor, at, level) = names.place(across(scaled(x)), down(y), &series.name);
            push(
                &mut svg,
                format_args!(
                    "<text class=\"name\" text-anchor=\"{anchor}\" x=\"{at:.1}\" y=\"{level:.1}\">{name}</text>"
                ),
            );
        }
    }
    svg.push_str("</svg>");
    Some(svg)
}

/// Where names stand beside points: on the side where there is room, above or below where
/// others stand already.
#[derive(Default)]
struct Names(Vec<(f64, f64, f64)>);

impl Names {
    /// Pixels of a letter, of the broad ones, and of a line.
    const LETTER: f64 = 6.6;
    const LINE: f64 = 13.0;

    /// The anchor of a name beside a point, and where it stands.
    fn place(&mut self, across: f64, down: f64, name: &str) -> (&'static str, f64, f64) {
        let width = name.chars().count() as f64 * Self::LETTER;
        let right = across + 10.0 + width <= WIDTH;
        let (anchor, at) = if right { ("start", across + 10.0) } else { ("end", across - 10.0) };
        let (left, end) = if right { (at, at + width) } else { (at - width, at) };
        let free = |level: &f64| {
            let met = |&(from, to, other): &(f64, f64, f64)| {
                from < end && left < to && (other - level).abs() < Self::LINE
            };
            !self.0.iter().any(met)
        };
        // Line by line away from the point, as far as the frame goes.
        let levels = (0..40).map(|step| {
            let away = f64::from((step + 1) / 2) * Self::LINE;
            down + 4.0 + if step % 2 == 0 { away } else { -away }
        });
        let mut within = levels.filter(|level| (TOP..HEIGHT - BOTTOM).contains(level));
        let level = within.find(free).unwrap_or(down + 4.0);
        self.0.push((left, end, level));
        (anchor, at, level)
    }
}

fn push(svg: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = svg.write_fmt(text);
}

/// Text for the inside of an element or attribute.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(points: &[(f64, f64)]) -> Series {
        Series { name: "a<b".into(), colour: 9, points: points.to_vec() }
    }

    #[test]
    fn ticks_are_round_numbers_around_the_values() {
        let labels =
            |axis: Axis| axis.ticks.into_iter().map(|(_, label)| label).collect::<Vec<_>>().join(" ");
        assert_eq!(labels(Axis::linear([0.31, 0.47].into_iter(), 5.0)), "0.30 0.35 0.40 0.45 0.50");
        assert_eq!(labels(Axis::linear([0.0, 120.0].into_iter(), 6.0)), "0 20 40 60 80 100 120");
        assert_eq!(labels(Axis::linear([3.0, 3.0].into_iter(), 5.0)), "1 2 3 4 5");
        assert_eq!(labels(Axis::logarithmic([800.0, 1.1e8].into_iter())), "1k 10k 100k 1M 10M 100M");
    }

    #[test]
    fn points_stay_within_the_frame() {
        let points = [(0.0, -5.0), (17.0, 3.0), (40.0, f64::NAN), (31.0, 8.0)];
        for form in [Form::Lines, Form::Points] {
            let svg = chart(form, "step", "loss", &[series(&points)]).unwrap();
            assert_eq!(svg.matches("<circle").count(), 3, "{svg}");
            for circle in svg.split("cx=\"").skip(1) {
                let x: f64 = circle.split('"').next().unwrap().parse().unwrap();
                assert!((LEFT..=WIDTH - RIGHT).contains(&x), "{x}");
            }
            assert!(svg.contains("a&lt;b") && !svg.contains("a<b"));
            assert!(svg.contains("dot c1 ring"), "colours begin again: {svg}");
        }
        assert_eq!(chart(Form::Lines, "x", "y", &[series(&[(f64::NAN, 1.0)])]), None);
        assert_eq!(chart(Form::Lines, "x", "y", &[]), None);
    }

    #[test]
    fn names_of_points_beside_one_another_stand_apart_and_within_the_chart() {
        let mut names = Names::default();
        let at = |place: usize| (if place < 4 { 200.0 } else { 400.0 }, 100.0);
        let all: Vec<_> =
            (0..8).map(|place| names.place(at(place).0, at(place).1, "prompt-tuning")).collect();
        assert_eq!((all[0].0, all[4].0), ("start", "end"));
        for (left, right, level) in &names.0 {
            assert!(*left > 0.0 && *right <= WIDTH && *level > 0.0 && *level < HEIGHT);
            let met = |other: &&(f64, f64, f64)| {
                other.0 < *right && *left < other.1 && (other.2 - level).abs() < Names::LINE
            };
            assert_eq!(names.0.iter().filter(met).count(), 1, "it meets itself alone");
        }
    }
}
