//! Watches for collapse: from what an iteration reports to a verdict in words. No files, no printing.
//!
//! Every [`READ_EVERY`] iterations it takes a [`Reading`]; what is wrong in [`PATIENCE`] of them in a
//! row is a [`Collapse`]. Its state is a few numbers, which checkpoints hold, so that a resumed run
//! comes to the same verdict at the same iteration.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Iterations between two readings.
pub const READ_EVERY: u64 = 10;
/// Bad readings in a row that make a collapse.
pub const PATIENCE: u32 = 10;

/// The probability that the discriminator gives generated images is below this when it has won: the
/// generator's loss is above 4.6 then, and where the sigmoid is flat, its gradients are small noise.
const WON: f64 = 0.01;
/// A generated batch differs in itself by less than this part of what a real one does, when its
/// images have become one.
const ALIKE: f64 = 0.05;
/// Losses change by less than this part from reading to reading when they have frozen.
const FROZEN: f64 = 1e-4;

/// What one iteration shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// Of the discriminator step.
    pub d_loss: f64,
    /// Of the last generator step.
    pub g_loss: f64,
    /// Mean probability that the discriminator gives real images.
    pub prob_real: f64,
    /// Mean probability that the discriminator gives generated images.
    pub prob_fake: f64,
    /// How much the images of a batch differ from each other, generated and real ones; 0 if they are
    /// one. `None` where a batch is a single image, which tells nothing.
    pub spreads: Option<(f64, f64)>,
}

/// What has gone wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collapse {
    /// The discriminator tells all images apart: the generator learns nothing any more.
    DiscriminatorWon,
    /// Whatever z is, the generator gives one image.
    SamplesAlike,
    /// Both losses stand still.
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

/// A collapse that has lasted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alarm {
    /// What it is.
    pub collapse: Collapse,
    /// Whether it is certain from this reading on; else it was told before.
    pub is_new: bool,
}

/// Bad readings in a row, of each sort.
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
    /// Takes a reading; the collapse that there is by now, a new one before one that was told.
    pub fn read(&mut self, reading: &Reading) -> Option<Alarm> {
        let Reading { d_loss, g_loss, prob_real, prob_fake, spreads } = *reading;
        let stands = |before: f64, now: f64| (now - before).abs() <= FROZEN * before.abs();
        let frozen = self.losses.is_some_and(|(d, g)| stands(d, d_loss) && stands(g, g_loss));
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

    /// Whether the last reading was good in every respect.
    pub fn is_calm(&self) -> bool {
        (self.won, self.alike, self.frozen) == (0, 0, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reading of a run that goes well; no two losses are the same.
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
            // The first of equal losses differ from those before.
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
        // Both networks at a loss is how a GAN ends well: 1.386 and 0.693, but never twice the same.
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
