//! One drawing: lines over an axis, as an SVG that reads on light and on dark pages.
//!
//! Hand-written, because a few lines, ticks and words need no library. The background is transparent; grey words and mid-tone
//! lines keep their contrast either way, and a reader's dark setting makes the words lighter. Points are marked, so that
//! what was measured can be told from the line between. Not here: which numbers are drawn (`plots`).

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 432.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 96.0;
const BOTTOM: f64 = 56.0;
/// Of the Okabe-Ito palette (2008), told apart by colour-blind readers too; without its black and yellow.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"];

/// How an axis counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Steps {
    /// Evenly.
    Even,
    /// By powers of ten.
    Powers,
}

/// One axis.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    /// What, with its unit.
    pub(super) label: &'static str,
    /// How.
    pub(super) steps: Steps,
    /// From zero or the smallest power of ten below all values, unless given.
    pub(super) from: Option<f64>,
}

/// One line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Its name in the legend.
    pub(super) name: String,
    /// In the order of their x.
    pub(super) points: Vec<(f64, f64)>,
    /// A goal, not a measurement.
    pub(super) goal: bool,
}

/// One drawing.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    /// What it shows.
    pub(super) title: &'static str,
    /// To the right.
    pub(super) x: Axis,
    /// Upwards.
    pub(super) y: Axis,
    /// Up to six measured lines have colours of their own.
    pub(super) lines: Vec<Line>,
}

/// An axis with its range and length in pixels.
struct Scale {
    steps: Steps,
    low: f64,
    high: f64,
    start: f64,
    end: f64,
}

impl Scale {
    fn new(axis: &Axis, values: impl Iterator<Item = f64> + Clone, start: f64, end: f64) -> Self {
        let most = values.clone().fold(f64::MIN, f64::max);
        let least = values.filter(|value| *value > 0.0).fold(f64::MAX, f64::min);
        let (low, high) = match axis.steps {
            Steps::Even => (axis.from.unwrap_or(0.0), most),
            Steps::Powers => (axis.from.unwrap_or(10f64.powf(least.log10().floor())), most),
        };
        let mut scale = Self { steps: axis.steps, low, high, start, end };
        if scale.high <= scale.low {
            scale.high = if axis.steps == Steps::Even { low + 1.0 } else { low * 10.0 };
        }
        if axis.steps == Steps::Even {
            let step = scale.step();
            scale.high = (scale.high / step).ceil() * step;
        }
        scale
    }

    /// Where `value` is drawn.
    fn at(&self, value: f64) -> f64 {
        let part = match self.steps {
            Steps::Even => (value - self.low) / (self.high - self.low),
            Steps::Powers => (value.max(self.low) / self.low).log10() / (self.high / self.low).log10(),
        };
        self.start + part * (self.end - self.start)
    }

    /// A round number, about a sixth of the range.
    fn step(&self) -> f64 {
        let rough = (self.high - self.low) / 6.0;
        let power = 10f64.powf(rough.log10().floor());
        [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|of| of * power)
            .find(|step| *step >= rough * 0.999)
            .unwrap_or(10.0 * power)
    }

    fn ticks(&self) -> Vec<f64> {
        match self.steps {
            Steps::Even => {
                let step = self.step();
                let count = ((self.high - self.low) / step).round() as u32;
                (0..=count).map(|nth| self.low + f64::from(nth) * step).collect()
            }
            Steps::Powers => {
                let first = self.low.log10().floor() as i32;
                let wide = (self.high / self.low).log10() > 4.0;
                let within = [1.0, 2.0, 5.0].into_iter().filter(|of| *of == 1.0 || !wide);
                let within: Vec<f64> = within.collect();
                let powers = (first..first + 12).map(|power| 10f64.powi(power));
                let ticks = powers.flat_map(|power| within.iter().map(move |of| of * power).collect::<Vec<f64>>());
                ticks.filter(|tick| (self.low * 0.999..=self.high * 1.001).contains(tick)).collect()
            }
        }
    }
}

impl Chart {
    /// The drawing, a whole SVG file.
    pub(super) fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x = Scale::new(&self.x, points().map(|(x, _)| *x), LEFT, WIDTH - RIGHT);
        let y = Scale::new(&self.y, points().map(|(_, y)| *y), HEIGHT - BOTTOM, TOP);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n<title>{}</title>\n\
             <style>\ntext {{ font: 13px system-ui, sans-serif; fill: #737c86; }}\n\
             .title {{ font-size: 15px; font-weight: 600; }}\n.grid {{ stroke: #8b949e; stroke-opacity: .28; }}\n\
             .line {{ fill: none; stroke-width: 2; }}\n.goal {{ stroke-dasharray: 6 4; stroke: #8b949e; }}\n\
             @media (prefers-color-scheme: dark) {{ text {{ fill: #b1bac4; }} }}\n</style>\n\
             <text class=\"title\" x=\"{LEFT}\" y=\"24\">{}</text>\n",
            escaped(self.title),
            escaped(self.title),
        );
        let mut put = |text: String| svg.push_str(&text);
        let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
        put(format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n\
             <text transform=\"translate(18 {middle:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 12.0,
            escaped(self.x.label),
            escaped(self.y.label)
        ));
        for tick in x.ticks() {
            let at = x.at(tick);
            put(format!(
                "<path class=\"grid\" d=\"M{at:.1} {TOP}V{:.1}\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 18.0,
                number(tick)
            ));
        }
        for tick in y.ticks() {
            let at = y.at(tick);
            put(format!(
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
                WIDTH - RIGHT,
                LEFT - 8.0,
                at + 4.0,
                number(tick)
            ));
        }
        let (mut coloured, mut legend) = (0, (LEFT, 46.0));
        for line in &self.lines {
            let colour = if line.goal { "#8b949e" } else { COLOURS[coloured % COLOURS.len()] };
            coloured += usize::from(!line.goal);
            let class = if line.goal { "line goal" } else { "line" };
            let mut path = String::new();
            for (nth, (px, py)) in line.points.iter().enumerate() {
                let _ = write!(path, "{}{:.1} {:.1}", if nth == 0 { "M" } else { "L" }, x.at(*px), y.at(*py));
            }
            put(format!("<path class=\"{class}\" stroke=\"{colour}\" d=\"{path}\"/>\n"));
            // A curve of many points is no list of measurements.
            if line.points.len() <= 12 && !line.goal {
                for (px, py) in &line.points {
                    put(format!(
                        "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{colour}\"/>\n",
                        x.at(*px),
                        y.at(*py)
                    ));
                }
            }
            let width = 34.0 + 7.2 * line.name.chars().count() as f64;
            if legend.0 + width > WIDTH - RIGHT {
                legend = (LEFT, legend.1 + 18.0);
            }
            put(format!(
                "<path class=\"{class}\" stroke=\"{colour}\" d=\"M{:.1} {:.1}h20\"/><text x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
                legend.0,
                legend.1,
                legend.0 + 25.0,
                legend.1 + 4.0,
                escaped(&line.name)
            ));
            legend.0 += width;
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// As people write it: no needless digits, thousands apart.
fn number(value: f64) -> String {
    if value >= 1_000.0 {
        let whole = format!("{value:.0}");
        let head = (whole.len() - 1) % 3 + 1;
        let mut text = whole[..head].to_owned();
        for start in (head..whole.len()).step_by(3) {
            text.push(',');
            text.push_str(&whole[start..start + 3]);
        }
        return text;
    }
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        let cases =
            [(0.0, "0"), (0.5, "0.5"), (2.0, "2"), (100.0, "100"), (5_000.0, "5,000"), (1_234_567.0, "1,234,567")];
        for (value, expected) in cases {
            assert_eq!(number(value), expected);
        }
    }

    #[test]
    fn points_stay_inside_the_frame_and_names_cannot_break_out() {
        let axis = |steps| Axis { label: "a < b", steps, from: None };
        let line = Line { name: "x > y & z".to_owned(), points: vec![(10.0, 3.0), (5_000.0, 17.5)], goal: false };
        let chart = Chart { title: "t", x: axis(Steps::Powers), y: axis(Steps::Even), lines: vec![line] };
        let svg = chart.svg();
        assert!(svg.contains("x &gt; y &amp; z") && svg.contains("a &lt; b"));
        for part in svg.split("cx=\"").skip(1) {
            let (cx, rest) = part.split_once('"').unwrap();
            let cy = rest.split("cy=\"").nth(1).unwrap().split('"').next().unwrap();
            let (cx, cy): (f64, f64) = (cx.parse().unwrap(), cy.parse().unwrap());
            assert!((LEFT..=WIDTH - RIGHT).contains(&cx) && (TOP..=HEIGHT - BOTTOM).contains(&cy), "{cx} {cy}");
        }
        assert_eq!(svg.matches("<circle").count(), 2);
    }
}
