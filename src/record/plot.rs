//! Plots of curves over iterations, as PNG or SVG.

use std::sync::Once;

use ab_glyph::{Font, FontRef};
use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, RGBAColor, register_font};

use super::grid::Picture;
use super::jsonl::Metrics;
use super::numbers::{axis_label, thousands};
use crate::statistics::Sorted;

/// The font of all text in pictures.
const FONT: &[u8] = include_bytes!("../../assets/DejaVuSans-subset.ttf");
/// The font's name in an SVG file, where every reader has a font of this name.
const FAMILY: &str = "sans-serif";
/// The most curves of a panel: more have no colours of their own.
pub const CURVES: usize = COLOURS.len();
/// Colours of curves, which the colour-blind tell apart and which are readable on white and on black (after Okabe and
/// Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 189),
    RGBColor(213, 94, 0),
    RGBColor(0, 140, 105),
    RGBColor(190, 90, 150),
    RGBColor(200, 140, 0),
    RGBColor(70, 160, 215),
    RGBColor(120, 120, 120),
];
/// Colour of text and axes, which is readable on white and on black.
const INK: RGBColor = RGBColor(118, 124, 132);

/// A named series of points.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Its name in the legend.
    pub name: String,
    /// Iteration and value of each point, in order.
    pub points: Vec<(f64, f64)>,
}

/// Curves that share their axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// Its title, which is written above it.
    pub title: String,
    /// Its curves.
    pub curves: Vec<Curve>,
    /// An iteration with a word that is written beside it.
    pub mark: Option<(f64, String)>,
}

/// Panels in rows of two.
#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    /// The panels, at least one.
    pub panels: Vec<Panel>,
    /// How many points on either side each smoothed point is the mean of.
    pub half_window: usize,
}

/// What is plotted of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Curves {
    /// The run's name, which tells it from others.
    pub name: String,
    /// Its lines of metrics.
    pub metrics: Vec<Metrics>,
    /// The iteration of its best evaluation, which is marked if there is no other run.
    pub best: Option<u64>,
}

/// The name of a curve, and its value in a line of metrics.
type Shown = (&'static str, fn(&Metrics) -> f64);

/// The losses of both networks.
const LOSSES: [Shown; 2] = [("discriminator", |m| m.d_loss), ("generator", |m| m.g_loss)];
/// The probability of being real that the discriminator gives to real and to generated images.
const PROBABILITIES: [Shown; 2] = [
    ("real images", |m| m.mean_discriminator_output_prob_real),
    ("generated images", |m| m.mean_discriminator_output_prob_fake),
];

impl Plot {
    /// Losses and probabilities of one run or of several named ones.
    pub fn of_runs(runs: &[Curves]) -> Self {
        let points = |metrics: &[Metrics], value: fn(&Metrics) -> f64| {
            metrics.iter().map(|line| (line.iteration as f64, value(line))).collect()
        };
        let panels = match runs {
            [Curves { metrics, best, .. }] => {
                let panel = |title: &str, shown: [Shown; 2]| Panel {
                    title: title.to_owned(),
                    mark: best.map(|best| (best as f64, "best".to_owned())),
                    curves: shown
                        .into_iter()
                        .map(|(name, value)| Curve {
                            name: name.to_owned(),
                            points: points(metrics, value),
                        })
                        .collect(),
                };
                vec![panel("losses", LOSSES), panel("probability of being real", PROBABILITIES)]
            }
            _ => {
                let panel = |title: &str, (name, value): Shown| Panel {
                    title: format!("{title}: {name}"),
                    mark: None,
                    curves: runs
                        .iter()
                        .map(|run| Curve {
                            name: run.name.clone(),
                            points: points(&run.metrics, value),
                        })
                        .collect(),
                };
                let losses = LOSSES.map(|shown| panel("loss", shown));
                let probabilities =
                    PROBABILITIES.map(|shown| panel("probability of being real", shown));
                losses.into_iter().chain(probabilities).collect()
            }
        };
        let longest = runs.iter().map(|run| run.metrics.len()).max().unwrap_or(0);
        Self { panels, half_window: (longest / 40).min(50) }
    }
}

/// Width and height of a panel in pixels.
const PANEL: (u32, u32) = (560, 340);

impl Plot {
    fn size(&self) -> (u32, u32) {
        let columns = self.panels.len().clamp(1, 2) as u32;
        let rows = self.panels.len().div_ceil(2).max(1) as u32;
        (columns * PANEL.0, rows * PANEL.1)
    }

    /// An SVG file without a background.
    ///
    /// # Errors
    /// If it cannot be drawn.
    pub fn svg(&self) -> Result<String> {
        register();
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, self.size()).into_drawing_area();
        self.draw(&area, 1)?;
        drop(area);
        Ok(svg)
    }

    /// A picture on white, with twice as many pixels a side as the SVG.
    ///
    /// # Errors
    /// If it cannot be drawn.
    pub fn picture(&self) -> Result<Picture> {
        // Drawn at twice the picture's size and averaged, which smooths the lines.
        const SCALE: u32 = 4;
        register();
        let (width, height) = self.size();
        let (width, height) = (width * SCALE, height * SCALE);
        let mut pixels = vec![0; (width * height * 3) as usize];
        let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let mut shown = self.clone();
        for curve in shown.panels.iter_mut().flat_map(|panel| &mut panel.curves) {
            curve.name = in_font(&curve.name);
        }
        shown.draw(&area, SCALE)?;
        drop(area);
        let large = image::RgbImage::from_raw(width, height, pixels);
        let large = large.ok_or_else(|| failed("a picture of another size"))?;
        let (width, height) = (width / 2, height / 2);
        let pixels = image::imageops::thumbnail(&large, width, height).into_raw();
        Ok(Picture { width: width as usize, height: height as usize, channels: 3, pixels })
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, scale: u32) -> Result<()> {
        let (rows, columns) = (self.panels.len().div_ceil(2), self.panels.len().clamp(1, 2));
        for (panel, area) in self.panels.iter().zip(area.split_evenly((rows, columns))) {
            self.draw_panel(panel, &area, scale)?;
        }
        area.present().map_err(failed)
    }

    fn draw_panel<B: DrawingBackend>(
        &self,
        panel: &Panel,
        area: &DrawingArea<B, Shift>,
        scale: u32,
    ) -> Result<()> {
        let font = |size: u32| (FAMILY, size * scale).into_font().color(&INK);
        let points = || panel.curves.iter().flat_map(|curve| curve.points.iter().copied());
        let last = points().map(|(x, _)| x).fold(1.0, f64::max);
        let (low, high) = range(points().map(|(_, y)| y));
        let mut chart = ChartBuilder::on(area)
            .caption(&panel.title, font(15))
            .margin(12 * scale)
            // Half of the number at the end of the axis stands outside of it.
            .margin_right(30 * scale)
            .x_label_area_size(38 * scale)
            .y_label_area_size(52 * scale)
            .build_cartesian_2d(0.0..last, low..high)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .x_desc("iteration")
            .label_style(font(12))
            .axis_style(INK.mix(0.6))
            .bold_line_style(INK.mix(0.25))
            .light_line_style(TRANSPARENT)
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&|x| thousands(x.round() as i64))
            .y_label_formatter(&|y| axis_label(*y, high - low))
            .draw()
            .map_err(failed)?;
        if let Some((x, word)) = panel.mark.as_ref().filter(|(x, _)| *x <= last) {
            let line = PathElement::new(vec![(*x, low), (*x, high)], INK.stroke_width(scale));
            chart.draw_series([line]).map_err(failed)?;
            // Near the right edge the word is to the left of the line.
            let is_right = *x > 0.85 * last;
            let anchor = if is_right { HPos::Right } else { HPos::Left };
            let place = x + if is_right { -0.01 } else { 0.01 } * last;
            let style = font(12).pos(Pos::new(anchor, VPos::Bottom));
            chart.draw_series([Text::new(word.clone(), (place, low), style)]).map_err(failed)?;
        }
        for (i, curve) in panel.curves.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            // A curve may leave the panel's range for a moment; the line stays at the edge then.
            let within = |points: Vec<(f64, f64)>| {
                let shown = points.into_iter().filter(|(_, y)| !y.is_nan());
                shown.map(move |(x, y)| (x, y.clamp(low, high)))
            };
            let line =
                |points: Vec<(f64, f64)>, style: ShapeStyle| LineSeries::new(within(points), style);
            let smooth = smoothed(&curve.points, self.half_window);
            if self.half_window > 0 {
                let faint = ShapeStyle::from(colour.mix(0.28)).stroke_width(scale);
                chart.draw_series(line(curve.points.clone(), faint)).map_err(failed)?;
            }
            let strong = ShapeStyle::from(colour).stroke_width(2 * scale);
            if let [(x, y)] = curve.points[..] {
                // A single point makes no line.
                let dot = Circle::new((x, y.clamp(low, high)), 4 * scale, colour.filled());
                chart.draw_series([dot]).map_err(failed)?;
            }
            let drawn = chart.draw_series(line(smooth, strong)).map_err(failed)?;
            let s = scale as i32;
            drawn.label(&curve.name).legend(move |(x, y)| {
                PathElement::new(
                    vec![(x, y), (x + 18 * s, y)],
                    ShapeStyle::from(colour).stroke_width(3 * scale),
                )
            });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .legend_area_size(24 * scale)
            .margin(8 * scale)
            .background_style(RGBAColor(255, 255, 255, 0.0))
            .border_style(RGBAColor(255, 255, 255, 0.0))
            .label_font(font(12))
            .draw()
            .map_err(failed)
    }
}

/// `text` in white on black, of the given height, as wide as a picture.
///
/// # Errors
/// If it cannot be drawn.
pub fn label(text: &str, width: usize, height: usize, channels: usize) -> Result<Picture> {
    register();
    let size = (u32::try_from(width)?, u32::try_from(height)?);
    let mut pixels = vec![0; width * height * 3];
    let area = BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area();
    let font = (FAMILY, size.1 * 3 / 4).into_font().color(&WHITE);
    let place = (size.1 as i32 / 4, size.1 as i32 / 8);
    area.draw_text(text, &font, place).map_err(failed)?;
    area.present().map_err(failed)?;
    drop(area);
    if channels == 1 {
        pixels = pixels.into_iter().step_by(3).collect();
    }
    Ok(Picture { width, height, channels, pixels })
}

/// A centred moving average. Near the ends the window is smaller, so that it stays centred.
fn smoothed(points: &[(f64, f64)], half_window: usize) -> Vec<(f64, f64)> {
    let mean = |i: usize| {
        let reach = half_window.min(i).min(points.len() - 1 - i);
        let window = &points[i - reach..=i + reach];
        window.iter().map(|(_, y)| y).sum::<f64>() / window.len() as f64
    };
    points.iter().enumerate().map(|(i, &(x, _))| (x, mean(i))).collect()
}

/// The range of an axis that shows most of `values`: the outermost hundredth on either side may lie outside.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    // A value that no loss reaches would squash all others into a line.
    let values = Sorted::new(values.filter(|value| value.abs() < 1e9));
    if values.count() == 0 {
        return (0.0, 1.0);
    }
    let (low, high) = values.without_tails(100);
    let margin = match high - low {
        0.0 => 0.5 * high.abs().max(1e-3),
        span => 0.15 * span,
    };
    // All values are shown where that takes little more room.
    let (low, high) = (low - margin, high + margin);
    (low.max(values.least() - 0.3 * margin), high.min(values.greatest() + margin))
}

/// `text` with the code points of characters that the font lacks, which would all be the same empty box.
fn in_font(text: &str) -> String {
    // The font is a part of the program, and always readable.
    let Ok(font) = FontRef::try_from_slice(FONT) else { return text.to_owned() };
    let mut written = String::new();
    for character in text.chars() {
        if font.glyph_id(character).0 == 0 {
            written += &format!("<{:X}>", u32::from(character));
        } else {
            written.push(character);
        }
    }
    written
}

fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for style in [FontStyle::Normal, FontStyle::Bold] {
            // Registering cannot fail: the font is a part of the program.
            let _ = register_font(FAMILY, style, FONT);
        }
    });
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("the plot cannot be drawn: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_keeps_straight_lines_and_ends() {
        let line: Vec<_> = (0..20).map(|i| (f64::from(i), 3.0 * f64::from(i) - 1.0)).collect();
        for ((x, y), (a, b)) in smoothed(&line, 4).into_iter().zip(&line) {
            assert!(x == *a && (y - b).abs() < 1e-12);
        }
        let mut spike = vec![(0.0, 0.0); 9];
        spike[4].1 = 9.0;
        assert_eq!(smoothed(&spike, 1)[3..6], [(0.0, 3.0); 3]);
    }

    #[test]
    fn a_lone_spike_does_not_squash_the_rest_and_a_flat_line_has_room() {
        let mut values = vec![1.0; 300];
        values[0] = 1000.0;
        values[1] = 2.0;
        let (low, high) = range(values.into_iter());
        assert!(low < 1.0 && high < 10.0, "{low} {high}");
        assert_eq!(range([f64::NAN].into_iter()), (0.0, 1.0));
        let (low, high) = range([3.0, 3.0].into_iter());
        assert!(low < 3.0 && high > 3.0);
    }

    #[test]
    fn a_plot_shows_its_curves_in_their_colours_and_names_them() -> Result<()> {
        let points =
            |offset: f64| (0..50).map(|i| (f64::from(i), offset + f64::from(i % 5))).collect();
        let curve = |name: &str, offset| Curve { name: name.to_owned(), points: points(offset) };
        let panel = Panel {
            title: "a & b".to_owned(),
            curves: vec![curve("<one>", 0.0), curve("two", 9.0)],
            mark: Some((40.0, "the best".to_owned())),
        };
        let plot = Plot { panels: vec![panel], half_window: 3 };
        let svg = plot.svg()?;
        for text in ["a &amp; b", "&lt;one&gt;", "two", "iteration", "the best"] {
            assert!(svg.contains(text), "{text}");
        }
        let picture = plot.picture()?;
        for RGBColor(r, g, b) in &COLOURS[..2] {
            let count =
                picture.pixels.chunks_exact(3).filter(|pixel| *pixel == [*r, *g, *b]).count();
            assert!(count > 500, "{count}");
        }
        Ok(())
    }

    #[test]
    fn the_number_at_the_end_of_the_axis_is_not_cut_off() -> Result<()> {
        let points = vec![(0.0, 0.0), (1e6, 1.0)];
        let curves = vec![Curve { name: "one".to_owned(), points }];
        let panel = Panel { title: "long".to_owned(), curves, mark: None };
        let picture = Plot { panels: vec![panel], half_window: 1 }.picture()?;
        for row in picture.pixels.chunks_exact(3 * picture.width) {
            assert!(row.ends_with(&[255; 3 * 4]));
        }
        Ok(())
    }

    #[test]
    fn letters_of_names_have_glyphs_and_other_characters_are_told_apart_by_number() {
        for name in ["plain-name_1.0", "Köln", "İstanbul łódź", "Αθήνα", "Москва"] {
            assert_eq!(in_font(name), name);
        }
        assert_eq!(in_font("a写真😀"), "a<5199><771F><1F600>");
    }

    #[test]
    fn a_label_is_white_on_black_whatever_the_channels() -> Result<()> {
        for channels in [1, 3] {
            let picture = label("iteration 1,000", 200, 16, channels)?;
            assert_eq!(picture.pixels.len(), 200 * 16 * channels);
            assert!(picture.pixels.iter().filter(|&&value| value > 200).count() > 50 * channels);
            assert!(picture.pixels[199 * channels..200 * channels].iter().all(|&value| value == 0));
        }
        Ok(())
    }
}
