//! Files that hold pictures, or are taken for pictures, in formats that are not read here: what they are, and what to do.
//!
//! A format is told by a file's first bytes, and where these say nothing by its name. Source of the bytes: the formats'
//! specifications, and the list of the program `file`.

use std::path::Path;

use super::tiff;

/// A kind of file that is not read.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::data) struct Kind {
    /// As in "3 files are not read: HEIC photos".
    pub name: &'static str,
    /// How one comes to images that are read.
    pub remedy: &'static str,
    /// How the names of such files end, in small letters.
    endings: &'static [&'static str],
}

static HEIC: Kind = Kind {
    name: "HEIC photos",
    remedy: r#"convert them, such as by `find . -iname '*.heic' -exec heif-convert {} {}.jpg \;` (Debian: apt install libheif-examples), or set the phone's camera to "Most Compatible""#,
    endings: &["heic", "heif", "hif"],
};
static AVIF: Kind = Kind {
    name: "AVIF images",
    remedy: r"convert them, such as by `find . -iname '*.avif' -exec avifdec {} {}.png \;`",
    endings: &["avif", "avifs"],
};
static JPEG_2000: Kind = Kind {
    name: "JPEG 2000 images",
    remedy: "convert them, such as by `opj_decompress -ImgDir FOLDER -OutFor PNG`",
    endings: &["jp2", "j2k", "jpf", "jpx", "j2c", "jpc"],
};
static JPEG_XL: Kind = Kind {
    name: "JPEG XL images",
    remedy: r"convert them, such as by `find . -iname '*.jxl' -exec djxl {} {}.png \;`",
    endings: &["jxl"],
};
/// Also what begins as a TIFF file does.
pub(super) static RAW: Kind = Kind {
    name: "raw photos",
    remedy: "develop them, each by `darktable-cli FILE FILE.jpg`",
    endings: &[
        "3fr", "arw", "cr2", "cr3", "crw", "dcr", "dng", "erf", "iiq", "kdc", "mef", "mos", "mrw",
        "nef", "nrw", "orf", "pef", "raf", "rw2", "rwl", "sr2", "srf", "srw", "x3f",
    ],
};
static LAYERED: Kind = Kind {
    name: "files of picture editors (PSD, XCF)",
    remedy: "export them as PNG, such as by `magick FILE.psd[0] FILE.png`",
    endings: &["psd", "psb", "xcf"],
};
static PDF: Kind = Kind {
    name: "PDF files",
    remedy: "take the images out of them by `pdfimages -png FILE.pdf PREFIX`",
    endings: &["pdf", "eps", "ps", "ai", "djvu"],
};
static DRAWING: Kind = Kind {
    name: "vector drawings",
    remedy: "draw them at a size of your choice, such as by `rsvg-convert -o FILE.png FILE.svg`",
    endings: &["svg", "svgz", "emf", "wmf"],
};
static VIDEO: Kind = Kind {
    name: "videos",
    remedy: "take frames out of them, such as by `ffmpeg -i FILE.mp4 -vf fps=1 FOLDER/%05d.png`",
    endings: &[
        "3gp", "asf", "avi", "flv", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "webm",
        "wmv",
    ],
};
static WEB_PAGE: Kind = Kind {
    name: "web pages",
    remedy: "the server sent a page instead of the image; download the image again",
    endings: &["html", "htm", "xhtml"],
};
static ARCHIVE: Kind = Kind {
    name: "archives",
    remedy: "unpack them first, or name one as zip:FILE or tar:FILE",
    endings: &["zip", "tar", "tgz", "gz", "7z", "rar", "xz", "bz2", "zst"],
};
static OTHER: Kind = Kind {
    name: "images of formats that are not read here",
    remedy: "convert them to PNG, such as by `magick FILE FILE.png`",
    endings: &[
        "cur", "dcm", "dds", "dpx", "exr", "fit", "fits", "hdr", "icns", "ico", "jxr", "pcx",
        "pfm", "ras", "sgi", "tga", "wdp", "xbm", "xpm",
    ],
};

/// All of them, for names.
static KINDS: [&Kind; 12] = [
    &HEIC, &AVIF, &JPEG_2000, &JPEG_XL, &RAW, &LAYERED, &PDF, &DRAWING, &VIDEO, &WEB_PAGE,
    &ARCHIVE, &OTHER,
];

/// How files begin whose format their first bytes tell.
static BEGINNINGS: [(&[u8], &Kind); 34] = [
    (b"\0\0\0\x0cjP  ", &JPEG_2000),
    (b"\xff\x4f\xff\x51", &JPEG_2000),
    (b"\xff\x0a", &JPEG_XL),
    (b"\0\0\0\x0cJXL ", &JPEG_XL),
    (b"II*\0\x10\0\0\0CR", &RAW),
    (b"IIRO", &RAW),
    (b"IIRS", &RAW),
    (b"MMOR", &RAW),
    (b"IIU\0", &RAW),
    (b"FUJIFILMCCD-RAW", &RAW),
    (b"FOVb", &RAW),
    (b"\0MRM", &RAW),
    (b"8BPS", &LAYERED),
    (b"gimp xcf", &LAYERED),
    (b"%PDF", &PDF),
    (b"%!PS", &PDF),
    (b"\xc5\xd0\xd3\xc6", &PDF),
    (b"AT&TFORM", &PDF),
    (b"\x1a\x45\xdf\xa3", &VIDEO),
    (b"FLV\x01", &VIDEO),
    (b"\0\0\x01\xba", &VIDEO),
    (b"\0\0\x01\xb3", &VIDEO),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", &VIDEO),
    (b"PK\x03\x04", &ARCHIVE),
    (b"7z\xbc\xaf\x27\x1c", &ARCHIVE),
    (b"Rar!", &ARCHIVE),
    (b"\x1f\x8b\x08", &ARCHIVE),
    (b"\xfd7zXZ\0", &ARCHIVE),
    (b"\x28\xb5\x2f\xfd", &ARCHIVE),
    (b"DDS ", &OTHER),
    (b"\x76\x2f\x31\x01", &OTHER),
    (b"#?RADIANCE", &OTHER),
    (b"SIMPLE  =", &OTHER),
    (b"II\xbc", &OTHER),
];

/// The kind of the file of that name with those bytes, if it is one of [`KINDS`].
pub(super) fn kind_of(bytes: &[u8], name: &str) -> Option<&'static Kind> {
    by_content(bytes).or_else(|| by_name(bytes, name))
}

/// What a photo is in spite of beginning as a TIFF file does, as most raw photos do: their first picture is a preview.
pub(super) fn is_raw_photo(bytes: &[u8], name: &str) -> bool {
    tiff::is_tiff(bytes)
        && (by_content(bytes) == Some(&RAW) || ends_as(&RAW, name) || tiff::is_dng(bytes))
}

fn by_content(bytes: &[u8]) -> Option<&'static Kind> {
    if bytes.get(4..8) == Some(b"ftyp") {
        return Some(of_boxes(bytes));
    }
    // Of a film for QuickTime that has no such box. A length is before it, which no text begins with.
    let first = bytes.get(4..8).filter(|_| !bytes[0].is_ascii_graphic()).unwrap_or_default();
    if [b"moov", b"mdat", b"wide"].iter().any(|name| first == *name) {
        return Some(&VIDEO);
    }
    if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"AVI ") {
        return Some(&VIDEO);
    }
    if bytes.get(128..132) == Some(b"DICM") {
        return Some(&OTHER);
    }
    let known = BEGINNINGS.iter().find(|(beginning, _)| bytes.starts_with(beginning));
    known.map(|(_, kind)| *kind).or_else(|| of_markup(bytes))
}

/// The kind of a file of ISO's base media format, by the brands that its first box names (ISO/IEC 14496-12, 23008-12).
fn of_boxes(bytes: &[u8]) -> &'static Kind {
    let length = bytes.first_chunk::<4>().map_or(0, |length| u32::from_be_bytes(*length) as usize);
    let brands = &bytes[8..length.clamp(8, bytes.len().min(256))];
    let has = |brand: &[u8; 4]| brands.as_chunks::<4>().0.contains(brand);
    let is_any = |all: &[&[u8; 4]]| all.iter().any(|brand| has(brand));
    if is_any(&[b"avif", b"avis"]) {
        &AVIF
    } else if has(b"crx ") {
        &RAW
    } else if has(b"jxl ") {
        &JPEG_XL
    } else if is_any(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"]) {
        &HEIC
    } else {
        &VIDEO
    }
}

/// A page or a drawing, if it is one that is written in text.
fn of_markup(bytes: &[u8]) -> Option<&'static Kind> {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]).to_lowercase();
    let head = head.trim_start_matches('\u{feff}').trim_start();
    if !head.starts_with('<') {
        return None;
    }
    let has = |tags: &[&str]| tags.iter().any(|tag| head.contains(tag));
    if has(&["<!doctype html", "<html", "<head", "<body"]) {
        return Some(&WEB_PAGE);
    }
    has(&["<svg"]).then_some(&DRAWING)
}

/// By its name alone. A text file is none of these whatever its name.
fn by_name(bytes: &[u8], name: &str) -> Option<&'static Kind> {
    let is_character = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    let is_text = !bytes.is_empty() && bytes.iter().take(64).all(is_character);
    // These two formats are text themselves.
    let is_image = [".xbm", ".xpm"].iter().any(|ending| name.to_lowercase().ends_with(ending));
    KINDS.into_iter().find(|kind| ends_as(kind, name)).filter(|_| !is_text || is_image)
}

fn ends_as(kind: &Kind, name: &str) -> bool {
    let ending = Path::new(name).extension().unwrap_or_default().to_string_lossy().to_lowercase();
    kind.endings.contains(&ending.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_by_their_content_and_then_by_their_name() {
        let heic = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic";
        let avif = b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf";
        for (bytes, name, kind) in [
            (heic.as_slice(), "a.jpg", Some(&HEIC)),
            (avif, "a.heic", Some(&AVIF)),
            (b"\0\0\0\x14ftypisom\0\0\0\0mp42", "a", Some(&VIDEO)),
            (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "a.mov", Some(&VIDEO)),
            (b"\0\0\0\x18ftypcrx \0\0\0\0crx isom", "a.cr3", Some(&RAW)),
            (b"ftypheic", "a.jpg", None),
            (b"\xff\xff\xff\xffftypheic", "a.jpg", Some(&HEIC)),
            (b"  <!DOCTYPE HTML><title>404", "a.jpg", Some(&WEB_PAGE)),
            (b"<?xml version='1.0'?><svg", "a", Some(&DRAWING)),
            (b"<annotation><folder>", "a.xml", None),
            (b"%PDF-1.7", "a.png", Some(&PDF)),
            (b"8BPS\0\x01", "a", Some(&LAYERED)),
            (b"\0\0\x02\0\0\0", "a.TGA", Some(&OTHER)),
            (b"x,y,label", "a.dng", None),
            (b"", "a.HEIC", Some(&HEIC)),
            (b"hello", "a.txt", None),
            (b"ENVI\ndescription = a", "notes.hdr", None),
            (b"two wide words", "a.txt", None),
            (b"\0\0\0\x08wide", "a", Some(&VIDEO)),
            (b"#define a 1", "a.xbm", Some(&OTHER)),
        ] {
            assert_eq!(kind_of(bytes, name), kind, "{name} {bytes:?}");
        }
    }

    #[test]
    fn no_two_kinds_claim_the_same_ending() {
        let mut all: Vec<_> = KINDS.iter().flat_map(|kind| kind.endings).collect();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
