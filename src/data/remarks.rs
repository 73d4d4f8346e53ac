//! What a user should know of the files of a data set although the set can be used: each a line.

use super::findings::Findings;
use super::fit::{Decoding, Fit, cropped_size};

/// The share of the images that cropping may take away before it is told.
const CROPPED: f64 = 0.2;

/// All there is to say of a set that is read as `decoding` says and has so many `channels`.
pub(super) fn of(findings: &Findings, decoding: &Decoding, channels: usize) -> Vec<String> {
    let mut told = of_foreign(findings);
    let Findings { own, others, first_pages, gray_in_color, .. } = findings;
    if !own.is_empty() {
        told.push(format!("left out as this program's own runs and pictures: {}", own.told()));
    }
    if !others.is_empty() {
        told.push(format!("left out as no images: {}", others.told()));
    }
    if !first_pages.is_empty() {
        told.push(format!("only the first page is taken of {}", first_pages.told()));
    }
    if channels == 1 && *gray_in_color > 0 {
        told.push(format!(
            "{gray_in_color} images are stored in colour, and all are gray: the set counts as gray; the setting \
             `channels` 3 makes it one in colour"
        ));
    }
    let cropped = cropped_share(findings, decoding);
    if cropped > CROPPED {
        told.push(format!(
            "cropping takes away {:.0} % of the area of the images; the setting `fit` pad or stretch keeps it",
            100.0 * cropped
        ));
    }
    told
}

/// What there is instead of images, behind the words that there are none.
pub(super) fn what_else(findings: &Findings) -> String {
    let Findings { own, others, .. } = findings;
    let mut told = String::new();
    if !others.is_empty() {
        told += &format!("; {} other files, such as {}", others.count, others.names.join(", "));
    }
    if !own.is_empty() {
        told += &format!("; left out as this program's own runs and pictures: {}", own.told());
    }
    of_foreign(findings).iter().for_each(|kind| told += &format!("; {kind}"));
    told
}

/// A line for each kind of files that is not read.
pub(super) fn of_foreign(findings: &Findings) -> Vec<String> {
    let kinds = findings.foreign.iter();
    let told = kinds.map(|(kind, found)| {
        format!("{kind} are not read: {}; {}", found.files.told(), found.remedy)
    });
    told.collect()
}

/// How much of the area of all images cropping takes away, 0 to 1, on average.
fn cropped_share(findings: &Findings, decoding: &Decoding) -> f64 {
    let (Some(to), Fit::Crop) = (decoding.size, decoding.fit) else { return 0.0 };
    let area = |(width, height): (u32, u32)| f64::from(width) * f64::from(height);
    let lost = findings.sizes.iter().map(|(&size, &count)| {
        let kept = cropped_size(size, (to.width as u32, to.height as u32));
        (1.0 - area(kept) / area(size)) * count as f64
    });
    let count: usize = findings.sizes.values().sum();
    lost.sum::<f64>() / count.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::ImageSize;

    #[test]
    fn cropping_is_told_if_it_takes_away_more_than_a_fifth() {
        let decoding = Decoding {
            size: Some(ImageSize::REFERENCE),
            channels: None,
            fit: Fit::Crop,
            background: [0; 3],
        };
        let told = |size, decoding| {
            let mut findings = Findings::default();
            findings.add_images(size, 3, 0);
            of(&findings, &decoding, 3).concat()
        };
        assert_eq!(told((120, 100), decoding), "", "a sixth");
        assert!(told((100, 400), decoding).contains("takes away 75 % of the area"));
        assert_eq!(told((100, 400), Decoding { fit: Fit::Pad, ..decoding }), "");
        assert_eq!(told((100, 400), Decoding { size: None, ..decoding }), "");
    }
}
