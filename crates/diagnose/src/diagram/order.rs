//! The order of the boxes in a layer, with few crossings of arrows.

use super::graph::Graph;

/// Number of passes over the layers, down and up.
const SWEEPS: usize = 8;

/// Order the boxes of each layer from left to right. Each box moves to the average position of the
/// boxes it is connected to (the barycentre heuristic of Sugiyama, Tagawa and Toda), as long as that
/// reduces crossings.
pub(crate) fn ordered(graph: &Graph, layer: &[usize]) -> Vec<Vec<usize>> {
    let count = layer.iter().max().map_or(0, |last| last + 1);
    let mut layers: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (at, number) in layer.iter().enumerate() {
        layers[*number].push(at);
    }
    let mut best = layers.clone();
    let mut fewest = crossings(graph, &layers);
    for sweep in 0..SWEEPS {
        if fewest == 0 {
            break;
        }
        let down = sweep % 2 == 0;
        let turns: Vec<usize> = if down {
            (0..count).collect()
        } else {
            (0..count).rev().collect()
        };
        for number in turns {
            let towards = centres(graph, &layers, layer.len(), down);
            // Stable: unconnected boxes keep their places.
            layers[number].sort_by(|a, b| towards[*a].total_cmp(&towards[*b]));
        }
        let now = crossings(graph, &layers);
        if now < fewest {
            (fewest, best) = (now, layers.clone());
        }
    }
    best
}

/// Return the position of a box in its layer, as a share of the layer's width.
#[allow(clippy::cast_precision_loss)] // Layers have some hundred boxes.
fn places(layers: &[Vec<usize>], boxes: usize) -> Vec<f64> {
    let mut places = vec![0.0; boxes];
    for layer in layers {
        for (at, of) in layer.iter().enumerate() {
            places[*of] = (at as f64 + 0.5) / layer.len() as f64;
        }
    }
    places
}

/// Return the average position of the boxes that lead to a box (`down`), or that it leads to.
fn centres(graph: &Graph, layers: &[Vec<usize>], boxes: usize, down: bool) -> Vec<f64> {
    let places = places(layers, boxes);
    let mut sums = vec![(0.0, 0.0); boxes];
    for arrow in &graph.arrows {
        let (at, other) = if down {
            (arrow.to, arrow.from)
        } else {
            (arrow.from, arrow.to)
        };
        sums[at].0 += places[other];
        sums[at].1 += 1.0;
    }
    let all = sums.into_iter().zip(places);
    all.map(|((sum, n), here)| if n > 0.0 { sum / n } else { here })
        .collect()
}

/// Count the pairs of arrows that cross between two layers.
pub(crate) fn crossings(graph: &Graph, layers: &[Vec<usize>]) -> usize {
    let boxes = graph.boxes.len();
    let places = places(layers, boxes);
    let mut number = vec![0; boxes];
    for (n, layer) in layers.iter().enumerate() {
        layer.iter().for_each(|of| number[*of] = n);
    }
    let mut crossed = 0;
    for (i, a) in graph.arrows.iter().enumerate() {
        for b in &graph.arrows[i + 1..] {
            let alike = number[a.from] == number[b.from] && number[a.to] == number[b.to];
            let sides = (places[a.from] - places[b.from]) * (places[a.to] - places[b.to]);
            crossed += usize::from(alike && sides < 0.0);
        }
    }
    crossed
}
