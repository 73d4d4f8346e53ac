//! Walks through latent space.

/// The kind of path that leads from one z to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// A straight line. It suits uniform noise, because it never leaves the noise's cube.
    Linear,
    /// An arc on a sphere. It suits normal noise, because it keeps the length of z (T. White, *Sampling Generative
    /// Networks*, 2016).
    Spherical,
}

impl Path {
    /// The point at `t` in [0, 1] between `from` and `to`.
    pub fn between(self, from: &[f32], to: &[f32], t: f64) -> Vec<f32> {
        let (mut a, mut b) = (1.0 - t, t);
        if self == Self::Spherical {
            let dot = |x: &[f32], y: &[f32]| -> f64 {
                x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
            };
            let lengths = (dot(from, from) * dot(to, to)).sqrt();
            let angle = (dot(from, to) / lengths).clamp(-1.0, 1.0).acos();
            // If both point in the same or in opposite directions, no single arc connects them; then the line is taken.
            if angle.is_finite() && angle.sin() > 1e-6 {
                (a, b) = ((a * angle).sin() / angle.sin(), (b * angle).sin() / angle.sin());
            }
        }
        let mix = |(&x, &y): (&f32, &f32)| (a * f64::from(x) + b * f64::from(y)) as f32;
        from.iter().zip(to).map(mix).collect()
    }

    /// The point of frame number `frame` out of `frames` on a walk through `count` keys. `key` makes a key, and every
    /// way from one key to the next takes the same time. A `closed` walk leads from the last key back to the first.
    pub fn through(
        self,
        key: impl Fn(usize) -> Vec<f32>,
        count: usize,
        (frame, frames): (usize, usize),
        closed: bool,
    ) -> Vec<f32> {
        let key = |i: usize| key(i % count);
        let legs = if closed { count } else { count - 1 };
        // A closed walk ends one step before its first frame, so that it can be repeated without showing a frame twice.
        let steps = if closed { frames } else { frames.saturating_sub(1).max(1) };
        let (leg, rest) = (frame * legs / steps, frame * legs % steps);
        self.between(&key(leg), &key(leg + 1), rest as f64 / steps as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_pass_through_their_keys_in_even_steps() {
        let keys = [0.0, 0.0, 4.0, 0.0, 4.0, 8.0];
        let all = |path: Path, keys: &[f32], frames: usize, closed: bool| -> Vec<f32> {
            let key = |i: usize| keys[2 * i..][..2].to_vec();
            let at = |i| path.through(key, keys.len() / 2, (i, frames), closed);
            (0..frames).flat_map(at).collect()
        };
        let open = all(Path::Linear, &keys, 5, false);
        assert_eq!(open, [0.0, 0.0, 2.0, 0.0, 4.0, 0.0, 4.0, 4.0, 4.0, 8.0]);
        let closed = all(Path::Linear, &keys, 6, true);
        assert_eq!(closed, [0.0, 0.0, 2.0, 0.0, 4.0, 0.0, 4.0, 4.0, 4.0, 8.0, 2.0, 4.0]);
        assert_eq!(all(Path::Linear, &keys, 1, false), [0.0, 0.0]);
        // A walk with a single key does not move.
        assert_eq!(all(Path::Spherical, &[3.0, 1.0], 2, true), [3.0, 1.0, 3.0, 1.0]);
    }

    #[test]
    fn a_spherical_walk_keeps_the_length_and_halves_the_angle() {
        let half = Path::Spherical.between(&[2.0, 0.0], &[0.0, 2.0], 0.5);
        let side = 2.0_f32.sqrt();
        assert!(half.iter().all(|x| (x - side).abs() < 1e-6), "{half:?}");
        let quarter = Path::Spherical.between(&[2.0, 0.0], &[0.0, 2.0], 0.25);
        assert!((quarter[1].atan2(quarter[0]) - std::f32::consts::PI / 8.0).abs() < 1e-6);
        // Ends that are opposite, equal or zero give no NaN.
        for (from, to) in
            [([1.0, 0.0], [-1.0, 0.0]), ([1.0, 2.0], [1.0, 2.0]), ([0.0; 2], [1.0, 0.0])]
        {
            assert_eq!(Path::Spherical.between(&from, &to, 1.0), to);
            assert!(Path::Spherical.between(&from, &to, 0.3).iter().all(|x| x.is_finite()));
        }
    }
}
