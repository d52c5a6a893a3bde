//! The findings as pictures: SVG, drawn by plotters.

use plotters::{
    coord::{
        Shift,
        ranged1d::{AsRangedCoord, Ranged, ValueFormatter},
    },
    element::DashedPathElement,
    prelude::*,
};

/// Of each picture, in pixels; the page scales it.
const SIZE: (u32, u32) = (760, 420);

/// Told apart by people who do not see all colours alike (Okabe and Ito 2008), then repeated.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(120, 94, 240),
];

/// Lines that were not measured under a policy: what they look like, with how much of a dash is drawn and left out, in pixels.
const REFERENCES: [(RGBColor, u32, u32); 3] =
    [(RGBColor(60, 66, 75), 2, 5), (RGBColor(110, 118, 129), 10, 4), (RGBColor(140, 82, 40), 5, 4)];

/// Of all words, in pixels.
const FONT: (&str, u32) = ("sans-serif", 15);

/// Why a picture was not drawn.
pub(super) type Failed = DrawingAreaErrorKind<std::io::Error>;

/// What stands at an axis.
pub(super) struct Axes<'a> {
    pub(super) x: &'a str,
    pub(super) y: &'a str,
}

/// A line through points, each with the ends of its interval where it has one.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64, Option<[f64; 2]>)>,
    /// Something to compare with: dashed.
    pub(super) reference: bool,
}

/// Lines over a linear axis from 0, or from their own least value where it is below.
pub(super) fn lines(axes: &Axes<'_>, lines: &[Line]) -> Result<String, Failed> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let highest = points().flat_map(|(_, y, interval)| [*y, interval.map_or(*y, |[_, high]| high)]).fold(0.0, f64::max);
    let farthest = points().map(|(x, ..)| *x).fold(0.0, f64::max);
    let right = if farthest > 0.0 { farthest * 1.03 } else { 1.0 };
    let top = if highest > 0.0 { highest * 1.3 } else { 1.0 };
    draw(|area| {
        let mut chart = plane(area, axes, 0.0..right, 0.0..top)?;
        let mut references = REFERENCES.into_iter().cycle();
        let mut colours = COLOURS.into_iter().cycle();
        for line in lines {
            let path: Vec<(f64, f64)> = line.points.iter().map(|(x, y, _)| (*x, *y)).collect();
            if line.reference {
                let (colour, dash, space) = references.next().unwrap_or(REFERENCES[0]);
                let style = colour.stroke_width(2);
                let drawn = chart.draw_series(DashedLineSeries::new(path, dash, space, style))?;
                drawn
                    .label(&line.name)
                    .legend(move |(x, y)| DashedPathElement::new([(x, y), (x + 20, y)], dash, space, style));
                continue;
            }
            let colour = colours.next().unwrap_or(BLACK);
            let style = colour.stroke_width(2);
            let drawn = chart.draw_series(LineSeries::new(path, style))?;
            drawn.label(&line.name).legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
            chart.draw_series(line.points.iter().map(|(x, y, _)| Circle::new((*x, *y), 3, colour.filled())))?;
            let intervals = line.points.iter().filter_map(|(x, _, interval)| {
                let [low, high] = (*interval)?;
                Some(PathElement::new([(*x, low), (*x, high)], colour.mix(0.5).stroke_width(3)))
            });
            chart.draw_series(intervals)?;
        }
        legend(&mut chart)
    })
}

/// Bars of parts upon each other, a bar for each of `names`; `parts` has each part's name and its share in each bar.
pub(super) fn stacked(axes: &Axes<'_>, names: &[String], parts: &[(&str, Vec<f64>)]) -> Result<String, Failed> {
    let total = |bar: usize| parts.iter().map(|(_, values)| values.get(bar).copied().unwrap_or(0.0)).sum::<f64>();
    let top = (0..names.len()).map(total).fold(0.0, f64::max);
    let named = |x: &f64| {
        let at = x - 0.5;
        let whole = (at - at.round()).abs() < 1e-6 && at > -0.5;
        names.get(at.round() as usize).filter(|_| whole).cloned().unwrap_or_default()
    };
    draw(|area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(52)
            .y_label_area_size(72)
            // Room for the legend.
            .build_cartesian_2d(0.0..names.len() as f64 + 1.6, 0.0..if top > 0.0 { top * 1.05 } else { 1.0 })?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_desc(axes.x)
            .y_desc(axes.y)
            .x_labels(2 * names.len() + 5)
            .x_label_formatter(&named)
            .light_line_style(TRANSPARENT)
            .label_style(FONT)
            .axis_desc_style(FONT)
            .draw()?;
        let mut below = vec![0.0; names.len()];
        for ((name, values), colour) in parts.iter().zip(COLOURS) {
            let bars: Vec<_> = below
                .iter_mut()
                .enumerate()
                .map(|(bar, from)| {
                    let (low, high) = (*from, *from + values.get(bar).copied().unwrap_or(0.0));
                    *from = high;
                    Rectangle::new([(bar as f64 + 0.15, low), (bar as f64 + 0.85, high)], colour.filled())
                })
                .collect();
            let drawn = chart.draw_series(bars)?;
            drawn.label(*name).legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
        }
        legend(&mut chart)
    })
}

/// A device's roofs and what was reached under them.
pub(super) struct Roof {
    pub(super) name: String,
    pub(super) flops_per_s: f64,
    pub(super) bytes_per_s: f64,
    /// Name, intensity in FLOP per byte, FLOP/s.
    pub(super) dots: Vec<(String, f64, f64)>,
}

/// Rooflines (Williams et al. 2009), both axes logarithmic.
pub(super) fn rooflines(axes: &Axes<'_>, roofs: &[Roof]) -> Result<String, Failed> {
    let dots = || roofs.iter().flat_map(|roof| &roof.dots);
    let ridges = roofs.iter().map(|roof| roof.flops_per_s / roof.bytes_per_s);
    let intensities: Vec<f64> = dots().map(|(_, intensity, _)| *intensity).chain(ridges).collect();
    let rates: Vec<f64> = dots().map(|(.., rate)| *rate).chain(roofs.iter().map(|roof| roof.flops_per_s)).collect();
    let around = |values: &[f64]| {
        let (low, high) =
            values.iter().fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(*value), high.max(*value)));
        low / 3.0..high * 3.0
    };
    let (x, y) = (around(&intensities), around(&rates));
    draw(|area| {
        let mut chart = plane(area, axes, x.clone().log_scale(), y.clone().log_scale())?;
        for (roof, colour) in roofs.iter().zip(COLOURS) {
            let ridge = roof.flops_per_s / roof.bytes_per_s;
            let path = [x.start, ridge, x.end]
                .map(|intensity| (intensity, roof.flops_per_s.min(intensity * roof.bytes_per_s)));
            let drawn = chart.draw_series(LineSeries::new(path, colour.stroke_width(2)))?;
            drawn
                .label(&roof.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
            chart.draw_series(roof.dots.iter().map(|(_, x, y)| Circle::new((*x, *y), 4, colour.filled())))?;
            let named = roof.dots.iter().map(|(name, x, y)| Text::new(name.clone(), (*x * 1.06, *y), FONT));
            chart.draw_series(named)?;
        }
        legend(&mut chart)
    })
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

type Plane<'a, 'b, X, Y> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, Y>>;

/// The SVG that `paint` makes.
fn draw(paint: impl FnOnce(&Area<'_>) -> Result<(), Failed>) -> Result<String, Failed> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        paint(&area)?;
        area.present()?;
    }
    Ok(svg)
}

fn plane<'a, 'b, X, Y>(
    area: &'a Area<'b>,
    axes: &Axes<'_>,
    x: X,
    y: Y,
) -> Result<Plane<'a, 'b, X::CoordDescType, Y::CoordDescType>, Failed>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut chart =
        ChartBuilder::on(area).margin(12).x_label_area_size(52).y_label_area_size(72).build_cartesian_2d(x, y)?;
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(axes.x).y_desc(axes.y).light_line_style(TRANSPARENT).bold_line_style(BLACK.mix(0.12));
    mesh.label_style(FONT).axis_desc_style(FONT);
    mesh.x_label_formatter(&|x| short(*x)).y_label_formatter(&|y| short(*y)).draw()?;
    Ok(chart)
}

fn legend<'a, 'b: 'a, X, Y>(chart: &mut Plane<'a, 'b, X, Y>) -> Result<(), Failed>
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    let mut labels = chart.configure_series_labels();
    labels
        .label_font(FONT)
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.2))
        .draw()
}

/// A number with its thousands, as G, M or k.
fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        1e12.. => (value / 1e12, "T"),
        1e9.. => (value / 1e9, "G"),
        1e6.. => (value / 1e6, "M"),
        1e3.. => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = if value.abs() < 1.0 { 2 } else { 1 };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}
