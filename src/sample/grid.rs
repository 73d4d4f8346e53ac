//! The grids that a run's samples are shown in: what is asked of the generator in which row.

use super::with_classes;

/// Number of columns of a grid, and of its rows where no classes steer the networks.
pub const GRID: usize = 6;
/// The most rows of a grid of classes.
const MAX_ROWS: usize = 32;

/// The class of each row of a grid of `count` classes: a row for each class; where they are few, several, and where they
/// are many, only some of them have one.
pub fn classes_of_rows(count: usize) -> Vec<usize> {
    let rows = if count < GRID { count * (GRID / count.max(1)) } else { count.min(MAX_ROWS) };
    (0..rows).map(|row| row * count / rows).collect()
}

/// The generator's input for a grid, from noise `z` of `GRID * GRID` rows. With `count` classes above 0, every row of the
/// grid has images of one class, and all classes have the same noise.
pub fn class_grid(z: &[f32], z_dim: usize, count: usize) -> Vec<f32> {
    if count == 0 {
        return z.to_vec();
    }
    let classes = classes_of_rows(count);
    let mut all = Vec::new();
    for (row, &class) in classes.iter().enumerate() {
        // A class with several rows has other noise in each.
        let before = classes[..row].iter().filter(|&&other| other == class).count();
        let z = &z[before * GRID * z_dim..][..GRID * z_dim];
        all.extend(with_classes(z, z_dim, &[class; GRID], count));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_a_row_few_have_several_and_of_many_some_have_one() {
        assert_eq!(classes_of_rows(2), [0, 0, 0, 1, 1, 1]);
        assert_eq!(classes_of_rows(4), [0, 1, 2, 3]);
        assert_eq!(classes_of_rows(10), (0..10).collect::<Vec<_>>());
        let many = classes_of_rows(64);
        assert_eq!((many.len(), many[0], many[31]), (MAX_ROWS, 0, 62));
    }

    #[test]
    fn classes_share_their_noise_and_the_rows_of_one_class_do_not() {
        let z: Vec<f32> = (0..GRID * GRID).map(|i| i as f32).collect();
        let rows = class_grid(&z, 1, 2);
        let noise: Vec<f32> = rows.chunks(3).map(|row| row[0]).collect();
        let expected: Vec<f32> = (0..18).chain(0..18).map(|i| i as f32).collect();
        assert_eq!(noise, expected);
        assert_eq!((&rows[1..3], &rows[rows.len() - 2..]), (&[1.0, 0.0][..], &[0.0, 1.0][..]));
        assert_eq!(class_grid(&z, 1, 0), z);
    }
}
