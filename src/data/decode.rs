//! Decodes image files and fits the pixels to a network's input shape.
//!
//! The exporters follow the same rules, so that both get the same bytes
//! (`tests/goldens/make_folder.py` writes what Pillow makes of odd files). The content tells PNG
//! from JPEG. 16-bit values keep their high byte. Palettes and CMYK become RGB. Alpha is dropped,
//! not composed. EXIF orientation, ICC profiles and gamma are ignored, as in torchvision. A
//! truncated file is refused.

use std::io::Cursor;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::codecs::png::PngDecoder;
use image::{DynamicImage, ImageDecoder, Limits};
use mozjpeg::{ColorSpace, Decompress};

use super::png::{interleave, planes};

/// The most pixels of an image, before or after scaling: Pillow's own limit.
const MAX_PIXELS: u64 = 178_956_970;
/// The most scans of a JPEG file. Progressive files have about ten; each scan costs a pass over the
/// whole image.
const MAX_SCANS: usize = 1000;
/// Fractional bits of Pillow's 8-bit resampling weights.
const PRECISION_BITS: u32 = 22;

/// How images from files are fitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Images stay as they are; all must have the size and the channels of the first.
    Exact,
    /// Images become `[channels, height, width]` as in the exporters: they are scaled bilinearly to
    /// cover 8/7 of the size, then cropped at the centre. An image of exactly this size stays.
    To([usize; 3]),
}

/// An image of one or three channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pixels {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    /// `[H, W, C]`.
    pub values: Vec<u8>,
}

/// Decodes the PNG or JPEG file in `bytes`. The error text says what is wrong with it.
pub(super) fn decode(bytes: &[u8]) -> Result<Pixels, String> {
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        png(bytes)
    } else if bytes.starts_with(&[0xFF, 0xD8]) {
        jpeg(bytes)
    } else if bytes.is_empty() {
        Err("is empty".into())
    } else {
        Err("is neither a PNG nor a JPEG file, whatever its name says".into())
    }
}

fn check_pixels(height: usize, width: usize) -> Result<(), String> {
    if height as u64 * width as u64 > MAX_PIXELS {
        return Err(format!(
            "has {height}x{width} pixels, more than the {MAX_PIXELS} that are read"
        ));
    }
    Ok(())
}

fn png(bytes: &[u8]) -> Result<Pixels, String> {
    let refuse = |error: image::ImageError| format!("is not a readable PNG ({error})");
    // The limit covers unpacked text chunks and profiles too.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(8 * MAX_PIXELS + (1 << 20));
    let decoder = PngDecoder::with_limits(Cursor::new(bytes), limits).map_err(refuse)?;
    let (width, height) = decoder.dimensions();
    check_pixels(height as usize, width as usize)?;
    let image = DynamicImage::from_decoder(decoder).map_err(refuse)?;
    let high =
        |values: Vec<u16>| values.into_iter().map(|value| (value >> 8) as u8).collect::<Vec<_>>();
    let (stride, channels, values) = match image {
        DynamicImage::ImageLuma8(image) => (1, 1, image.into_raw()),
        DynamicImage::ImageLumaA8(image) => (2, 1, image.into_raw()),
        DynamicImage::ImageRgb8(image) => (3, 3, image.into_raw()),
        DynamicImage::ImageRgba8(image) => (4, 3, image.into_raw()),
        DynamicImage::ImageLuma16(image) => (1, 1, high(image.into_raw())),
        DynamicImage::ImageLumaA16(image) => (2, 1, high(image.into_raw())),
        DynamicImage::ImageRgb16(image) => (3, 3, high(image.into_raw())),
        DynamicImage::ImageRgba16(image) => (4, 3, high(image.into_raw())),
        other => {
            return Err(format!(
                "has the colour type {:?}; convert it to 8-bit gray or RGB",
                other.color()
            ));
        }
    };
    let values = if stride == channels {
        values
    } else {
        values.chunks_exact(stride).flat_map(|pixel| &pixel[..channels]).copied().collect()
    };
    Ok(Pixels { channels, height: height as usize, width: width as usize, values })
}

/// Decodes a gray, YCbCr, RGB, CMYK or YCCK JPEG file as Pillow's libjpeg does.
pub(super) fn jpeg(bytes: &[u8]) -> Result<Pixels, String> {
    check_markers(bytes)?;
    // The crate reports libjpeg's fatal errors by unwinding, without a panic's message. The closure
    // changes no outside state, so it is safe to go on.
    let decoded = catch_unwind(AssertUnwindSafe(|| libjpeg(bytes)));
    decoded.unwrap_or_else(|payload| {
        let what = payload.downcast_ref::<String>().map_or("damaged", String::as_str);
        Err(format!("is not a readable JPEG ({what})"))
    })
}

fn libjpeg(bytes: &[u8]) -> Result<Pixels, String> {
    let refuse = |error: std::io::Error| format!("is not a readable JPEG ({error})");
    let file = Decompress::new_mem(bytes).map_err(refuse)?;
    let (width, height) = file.size();
    check_pixels(height, width)?;
    let (space, stride) = match file.color_space() {
        ColorSpace::JCS_GRAYSCALE => (ColorSpace::JCS_GRAYSCALE, 1),
        ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK => (ColorSpace::JCS_CMYK, 4),
        _ => (ColorSpace::JCS_RGB, 3),
    };
    let mut image = file.to_colorspace(space).map_err(refuse)?;
    let values: Vec<u8> = image.read_scanlines().map_err(refuse)?;
    if values.len() != stride * height * width {
        return Err("is not a readable JPEG (it ends early)".into());
    }
    let (channels, values) = match stride {
        4 => (
            3,
            values
                .chunks_exact(4)
                .flat_map(|pixel| rgb_of_inverted_cmyk([pixel[0], pixel[1], pixel[2], pixel[3]]))
                .collect(),
        ),
        stride => (stride, values),
    };
    Ok(Pixels { channels, height, width, values })
}

/// Pillow's conversion. JPEG files store CMYK inverted, as Adobe does: 255 is no ink.
fn rgb_of_inverted_cmyk([cyan, magenta, yellow, black]: [u8; 4]) -> [u8; 3] {
    let light = u32::from(black);
    [cyan, magenta, yellow].map(|ink| {
        let product = u32::from(255 - ink) * light + 128;
        (light - (((product >> 8) + product) >> 8)) as u8
    })
}

/// Checks the markers of a JPEG file up to the end-of-image marker. libjpeg would fill missing data
/// with gray.
fn check_markers(bytes: &[u8]) -> Result<(), String> {
    const END: u8 = 0xD9;
    const SCAN: u8 = 0xDA;
    let truncated = || Err("is truncated: the JPEG image does not end".to_owned());
    let (mut at, mut scans) = (2, 0);
    loop {
        // Entropy-coded data lie between markers: there, 0xFF is followed by 0 or a restart marker.
        let Some(found) =
            bytes.get(at..).and_then(|rest| rest.windows(2).position(|pair| pair[0] == 0xFF))
        else {
            return truncated();
        };
        at += found + 1;
        match bytes[at] {
            0xFF => {}
            0x00 | 0x01 | 0xD0..=0xD8 => at += 1,
            END => return Ok(()),
            marker => {
                scans += usize::from(marker == SCAN);
                if scans > MAX_SCANS {
                    return Err(format!("is a JPEG of more than {MAX_SCANS} scans"));
                }
                let Some(length) = bytes.get(at + 1..at + 3) else { return truncated() };
                at += 1 + usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
            }
        }
    }
}

/// Fits `image` to the given shape of one or three channels, and returns the pixels `[C, H, W]`. An
/// image of another size is scaled bilinearly to cover 8/7 of the size, then cropped at the centre.
pub(super) fn fitted(
    image: Pixels,
    [channels, height, width]: [usize; 3],
) -> Result<Vec<u8>, String> {
    let image = with_channels(image, channels);
    let image = if (image.height, image.width) == (height, width) {
        image
    } else {
        covering(&image, height, width)?
    };
    Ok(planes(&image.values, channels))
}

fn with_channels(image: Pixels, channels: usize) -> Pixels {
    let values = match (image.channels, channels) {
        (1, 3) => image.values.iter().flat_map(|&value| [value; 3]).collect(),
        (3, 1) => {
            image.values.chunks_exact(3).map(|pixel| luma([pixel[0], pixel[1], pixel[2]])).collect()
        }
        _ => return image,
    };
    Pixels { channels, values, ..image }
}

/// Gray by ITU-R 601, in Pillow's arithmetic.
fn luma([red, green, blue]: [u8; 3]) -> u8 {
    ((u32::from(red) * 19_595 + u32::from(green) * 38_470 + u32::from(blue) * 7_471 + 0x8000) >> 16)
        as u8
}

/// Scales and crops to `height` × `width`. Only the pixels inside the crop are computed.
fn covering(image: &Pixels, height: usize, width: usize) -> Result<Pixels, String> {
    // The exporters compute in the same order, so that both round alike.
    let share = |wanted: usize, side: usize| wanted as f64 * 8.0 / 7.0 / side as f64;
    let scale = f64::max(share(height, image.height), share(width, image.width));
    let scaled =
        |side: usize, least: usize| ((side as f64 * scale).round_ties_even() as usize).max(least);
    let (tall, wide) = (scaled(image.height, height), scaled(image.width, width));
    if (tall as u64).saturating_mul(wide as u64) > MAX_PIXELS {
        return Err(format!(
            "has {}x{} pixels, which would be scaled to {tall}x{wide} to cover {height}x{width}; cut it to a squarer shape",
            image.height, image.width
        ));
    }
    let (top, left) = ((tall - height) / 2, (wide - width) / 2);
    let columns = weights(image.width, wide, left..left + width);
    let rows = weights(image.height, tall, top..top + height);
    Ok(resampled(image, &rows, &columns))
}

/// The pixels `[C, H, W]` of an image of shape `[C, h, w]`, scaled bilinearly along each axis as
/// Pillow does.
pub(super) fn stretched(
    pixels: &[u8],
    [channels, height, width]: [usize; 3],
    [tall, wide]: [usize; 2],
) -> Vec<u8> {
    let values = interleave(pixels, channels);
    let image = Pixels { channels, height, width, values };
    let (rows, columns) = (weights(height, tall, 0..tall), weights(width, wide, 0..wide));
    planes(&resampled(&image, &rows, &columns).values, channels)
}

/// The source positions of one output position, from `first` on, and their weights.
struct Weights {
    first: usize,
    weights: Vec<i32>,
}

/// Pillow's bilinear weights of the output positions `wanted` when `source` pixels become `output`
/// pixels. The kernel is widened for shrinking.
fn weights(source: usize, output: usize, wanted: Range<usize>) -> Vec<Weights> {
    let scale = source as f64 / output as f64;
    let support = scale.max(1.0);
    let inverse = 1.0 / support;
    let one = |position: usize| {
        if source == output {
            return Weights { first: position, weights: vec![1 << PRECISION_BITS] };
        }
        let centre = (position as f64 + 0.5) * scale;
        // `as` rounds towards zero and saturates at 0.
        let first = (centre - support + 0.5) as usize;
        let end = ((centre + support + 0.5) as usize).min(source);
        let share = |at: usize| (1.0 - ((at as f64 - centre + 0.5) * inverse).abs()).max(0.0);
        let sum: f64 = (first..end).map(share).sum();
        let fixed = |weight: f64| (0.5 + weight * f64::from(1 << PRECISION_BITS)) as i32;
        Weights { first, weights: (first..end).map(|at| fixed(share(at) / sum)).collect() }
    };
    wanted.map(one).collect()
}

/// Resamples along rows, then along columns, rounding to bytes in between as Pillow does.
fn resampled(image: &Pixels, rows: &[Weights], columns: &[Weights]) -> Pixels {
    let (channels, line) = (image.channels, image.channels * columns.len());
    let first = rows.iter().map(|row| row.first).min().unwrap_or(0);
    let end = rows.iter().map(|row| row.first + row.weights.len()).max().unwrap_or(0);
    let stride = channels * image.width;
    let source = &image.values[first * stride..end * stride];
    let across = match channels {
        1 => along_rows::<1>(source, image.width, columns),
        3 => along_rows::<3>(source, image.width, columns),
        _ => {
            interleave(&along_rows::<1>(&planes(source, channels), image.width, columns), channels)
        }
    };
    let mut values = vec![0; rows.len() * line];
    let mut sums = vec![0; line];
    for (row, target) in rows.iter().zip(values.chunks_exact_mut(line)) {
        sums.fill(HALF);
        let lines = across[(row.first - first) * line..].chunks_exact(line);
        for (source, &weight) in lines.zip(&row.weights) {
            for (sum, &value) in sums.iter_mut().zip(source) {
                *sum += i32::from(value) * weight;
            }
        }
        for (value, &sum) in target.iter_mut().zip(&sums) {
            *value = byte(sum);
        }
    }
    Pixels { channels, height: rows.len(), width: columns.len(), values }
}

/// Each row of `source`, of `width` pixels of `C` values, at the output positions `columns`.
fn along_rows<const C: usize>(source: &[u8], width: usize, columns: &[Weights]) -> Vec<u8> {
    let (pixels, _) = source.as_chunks::<C>();
    let mut across = vec![0; pixels.len() / width * columns.len() * C];
    let (outputs, _) = across.as_chunks_mut::<C>();
    for (row, outputs) in pixels.chunks_exact(width).zip(outputs.chunks_exact_mut(columns.len())) {
        for (column, output) in columns.iter().zip(outputs) {
            let mut sums = [HALF; C];
            for (pixel, &weight) in row[column.first..].iter().zip(&column.weights) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * weight;
                }
            }
            *output = sums.map(byte);
        }
    }
    across
}

/// A half in fixed point, so that shifting rounds.
const HALF: i32 = 1 << (PRECISION_BITS - 1);

fn byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::png::encode;
    use std::fs;

    fn golden(name: &str) -> Vec<u8> {
        fs::read(crate::in_repository("tests/goldens/folder/train").join(name)).unwrap()
    }

    #[test]
    fn an_image_of_the_very_size_stays() {
        let image = Pixels { channels: 1, height: 3, width: 2, values: vec![1, 2, 3, 4, 5, 255] };
        assert_eq!(fitted(image, [1, 3, 2]).unwrap(), [1, 2, 3, 4, 5, 255]);
    }

    /// Pillow refuses these files too.
    #[test]
    fn truncated_files_are_refused() {
        let names = [
            "b/0.jpeg",
            "b/cmyk.jpg",
            "b/progressive.jpg",
            "b/rotated.jpg",
            "a/rgb-16.png",
            "a/palette.png",
        ];
        for name in names {
            let whole = golden(name);
            decode(&whole).unwrap();
            // A PNG's last chunk holds no image data.
            let end = if whole.starts_with(b"\x89PNG") { whole.len() - 16 } else { whole.len() };
            for length in (0..end).step_by(7).chain([end - 1]) {
                assert!(decode(&whole[..length]).is_err(), "{name}: {length} bytes");
            }
        }
    }

    /// Any damaged byte gives an error or an image, never a panic.
    #[test]
    fn damaged_files_never_panic() {
        for name in
            ["b/0.jpeg", "b/ycck.jpg", "b/progressive.jpg", "a/rgba-16.png", "a/palette-alpha.png"]
        {
            let whole = golden(name);
            for at in (0..whole.len()).step_by(5) {
                let mut damaged = whole.clone();
                damaged[at] ^= 0x5A;
                let _ = decode(&damaged);
            }
        }
    }

    /// A PNG of `width` × `height` black pixels.
    fn black(width: u32, height: u32) -> Vec<u8> {
        encode(&vec![0; width as usize * height as usize], 1, height as usize, width as usize)
            .unwrap()
    }

    #[test]
    fn what_would_grow_without_bound_is_refused() {
        // The header alone is refused, before memory for the claimed size is allocated.
        let mut claims = black(1, 1);
        claims[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
        let crc = crc32(&claims[12..29]);
        claims[29..33].copy_from_slice(&crc.to_be_bytes());
        let message = decode(&claims).unwrap_err();
        assert!(message.contains("has 65536x65536 pixels, more than the 178956970"), "{message}");

        let mut claims = golden("b/0.jpeg");
        let frame = claims.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
        claims[frame + 5..frame + 9].copy_from_slice(&[0xFF, 0x00, 0xFF, 0x00]);
        let message = decode(&claims).unwrap_err();
        assert!(message.contains("has 65280x65280 pixels"), "{message}");

        // 370 bytes. Scaling to cover 32x32 would need 10 million by 37 pixels in between.
        let wide = decode(&black(300_000, 1)).unwrap();
        let message = fitted(wide, [1, 32, 32]).unwrap_err();
        assert!(
            message.contains(
                "has 1x300000 pixels, which would be scaled to 37x10971429 to cover 32x32"
            ),
            "{message}"
        );

        // Each scan costs a pass over the image but only ten bytes of the file.
        let whole = golden("b/progressive.jpg");
        let scan = whole.windows(2).position(|pair| pair == [0xFF, 0xDA]).unwrap();
        let header = &whole[scan..scan + 14];
        let many = [&whole[..scan], &header.repeat(MAX_SCANS + 1), &whole[scan..]].concat();
        assert_eq!(decode(&many).unwrap_err(), "is a JPEG of more than 1000 scans");
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum()
    }

    #[test]
    fn other_files_are_explained() {
        assert_eq!(decode(b"").unwrap_err(), "is empty");
        assert_eq!(
            decode(b"GIF89a").unwrap_err(),
            "is neither a PNG nor a JPEG file, whatever its name says"
        );
        let message = decode(&[&[0xFF, 0xD8][..], &[0xFF, 0xD9]].concat()).unwrap_err();
        assert!(message.starts_with("is not a readable JPEG"), "{message}");
    }
}
