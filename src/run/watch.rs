//! The watch for collapse: it decides from the numbers that iterations report whether training has failed. It uses no
//! files and prints nothing.
//!
//! Every [`READ_EVERY`] iterations it takes a [`Reading`]. If the same thing is wrong in [`PATIENCE`] readings in a
//! row, that is a [`Collapse`]. Its state is a few numbers, which are saved in checkpoints, so that a resumed run
//! comes to the same conclusion at the same iteration.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Iterations between two readings.
pub const READ_EVERY: u64 = 10;
/// How many bad readings in a row make a collapse.
pub const PATIENCE: u32 = 10;

/// The discriminator has won when it gives generated images a mean probability below this of being real. The
/// generator's loss is then above 4.6, and the sigmoid is so flat there that its gradients are small noise.
const WON: f64 = 0.01;
/// The generated images have become one when they differ from each other by less than this fraction of the amount by
/// which real images do.
const ALIKE: f64 = 0.05;
/// The losses have frozen when they change by no more than this fraction of themselves from one reading to the next.
const FROZEN: f64 = 1e-4;

/// The numbers of one iteration that the watch looks at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// The loss of the discriminator step.
    pub d_loss: f64,
    /// The loss of the last generator step.
    pub g_loss: f64,
    /// The mean probability of being real that the discriminator gives to real images.
    pub prob_real: f64,
    /// The mean probability of being real that the discriminator gives to generated images.
    pub prob_fake: f64,
    /// How much the images of a batch differ from each other: first the generated ones, then the real ones. 0 means
    /// that all images are equal. `None` if the batch is a single image, which has nothing to differ from.
    pub spreads: Option<(f64, f64)>,
}

/// The ways in which training can collapse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collapse {
    /// The discriminator recognizes every generated image, so that the generator no longer learns anything.
    DiscriminatorWon,
    /// The generator makes the same image from every z.
    SamplesAlike,
    /// Both losses no longer change.
    LossesFrozen,
}

impl fmt::Display for Collapse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DiscriminatorWon => "the discriminator has won: it is sure of every image",
            Self::SamplesAlike => "the generated images have become one, whatever z is",
            Self::LossesFrozen => "both losses have frozen",
        })
    }
}

impl std::error::Error for Collapse {}

/// A collapse that the watch has found: something was wrong in [`PATIENCE`] readings in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alarm {
    /// What has gone wrong.
    pub collapse: Collapse,
    /// Whether this reading is the first to make it certain. If not, it was reported before.
    pub is_new: bool,
}

/// The state of the watch: for each way to collapse, the number of bad readings in a row so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    won: u32,
    alike: u32,
    frozen: u32,
    /// The losses of the last reading.
    losses: Option<(f64, f64)>,
}

impl Watch {
    /// Takes a reading and returns the collapse that it makes certain or that persists, if any. A new collapse takes
    /// precedence over one that was reported before.
    pub fn read(&mut self, reading: &Reading) -> Option<Alarm> {
        let Reading { d_loss, g_loss, prob_real, prob_fake, spreads } = *reading;
        let is_unchanged = |before: f64, now: f64| (now - before).abs() <= FROZEN * before.abs();
        let frozen =
            self.losses.is_some_and(|(d, g)| is_unchanged(d, d_loss) && is_unchanged(g, g_loss));
        self.losses = Some((d_loss, g_loss));
        let won = prob_fake < WON && prob_real > 0.5;
        let alike = spreads.map(|(fake, real)| fake < ALIKE * real);
        let mut alarm: Option<Alarm> = None;
        for (streak, bad, collapse) in [
            (&mut self.frozen, Some(frozen), Collapse::LossesFrozen),
            (&mut self.alike, alike, Collapse::SamplesAlike),
            (&mut self.won, Some(won), Collapse::DiscriminatorWon),
        ] {
            *streak = match bad {
                Some(true) => streak.saturating_add(1),
                Some(false) => 0,
                None => *streak,
            };
            let is_new = *streak == PATIENCE && bad == Some(true);
            if *streak >= PATIENCE && alarm.is_none_or(|other| is_new || !other.is_new) {
                alarm = Some(Alarm { collapse, is_new });
            }
        }
        alarm
    }

    /// Whether nothing was wrong in the last reading.
    pub fn is_calm(&self) -> bool {
        (self.won, self.alike, self.frozen) == (0, 0, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reading of a run that goes well. The losses of two readings in a row differ.
    fn good(i: u32) -> Reading {
        Reading {
            d_loss: 1.2 + 0.01 * f64::from(i % 7),
            g_loss: 0.9,
            prob_real: 0.6,
            prob_fake: 0.4,
            spreads: Some((0.3, 0.5)),
        }
    }

    fn won(i: u32) -> Reading {
        Reading { prob_fake: 0.004, prob_real: 0.9, ..good(i) }
    }

    fn alike(i: u32) -> Reading {
        Reading { spreads: Some((0.02, 0.5)), ..good(i) }
    }

    fn frozen(_: u32) -> Reading {
        good(0)
    }

    #[test]
    fn what_is_wrong_ten_times_in_a_row_is_an_alarm_and_new_once() {
        for (bad, collapse, first) in [
            (won as fn(u32) -> Reading, Collapse::DiscriminatorWon, 10),
            (alike, Collapse::SamplesAlike, 10),
            // One more, because the first reading has no losses before it that it could equal.
            (frozen, Collapse::LossesFrozen, 11),
        ] {
            let mut watch = Watch::default();
            for i in 1..=40 {
                let expected = (i >= first).then_some(Alarm { collapse, is_new: i == first });
                assert_eq!(watch.read(&bad(i)), expected, "{i}");
            }
            assert!(!watch.is_calm());
            assert_eq!(watch.read(&good(1)), None);
            assert!(watch.is_calm());
            let again = (1..=11).filter_map(|i| watch.read(&bad(i)));
            assert_eq!(
                again.filter(|alarm| alarm.is_new).count(),
                1,
                "and again when it comes back"
            );
        }
    }

    #[test]
    fn a_batch_of_one_image_tells_nothing_of_how_images_differ() {
        let mut watch = Watch::default();
        let mut alarms = Vec::new();
        for i in 1..=20 {
            let single = Reading { spreads: None, ..good(i) };
            alarms.extend(watch.read(&if i % 2 == 0 { single } else { alike(i) }));
        }
        assert_eq!(
            alarms,
            [
                Alarm { collapse: Collapse::SamplesAlike, is_new: true },
                Alarm { collapse: Collapse::SamplesAlike, is_new: false }
            ]
        );
        assert!(!watch.is_calm());
    }

    #[test]
    fn a_run_that_goes_well_or_badly_for_a_moment_is_left_alone() {
        let mut watch = Watch::default();
        for i in 1..1000 {
            let reading = if i % 10 == 0 { good(i) } else { won(i) };
            assert_eq!(watch.read(&reading), None, "{i}");
        }
        // In a good end of training, the discriminator cannot tell the images apart: the losses are about 1.386 and
        // 0.693. That is no collapse, because the losses are never the same twice.
        for i in 0..1000 {
            let d_loss = 1.386 + 1e-3 * f64::from(i % 2);
            let level =
                Reading { d_loss, g_loss: 0.693, prob_real: 0.5, prob_fake: 0.5, ..good(0) };
            assert_eq!(watch.read(&level), None);
        }
    }

    #[test]
    fn nan_is_no_collapse_of_this_sort_and_breaks_nothing() {
        let mut watch = Watch::default();
        let nan = Reading {
            d_loss: f64::NAN,
            prob_fake: f64::NAN,
            spreads: Some((f64::NAN, f64::NAN)),
            ..good(0)
        };
        assert!((0..20).all(|_| watch.read(&nan).is_none()));
    }

    #[test]
    fn its_state_survives_being_written() -> anyhow::Result<()> {
        let mut watch = Watch::default();
        for i in 1..=6 {
            watch.read(&Reading { d_loss: 0.1 + 0.2, g_loss: 1.0 / 3.0, ..won(i) });
        }
        let read: Watch = serde_json::from_str(&serde_json::to_string(&watch)?)?;
        assert_eq!(read, watch);
        Ok(())
    }
}
