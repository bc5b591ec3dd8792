//! `image_policy`: the registry is asked for a newer image.

use std::time::Duration;

use super::super::node::{Node, quoted};
use super::super::reader::Reader;
use super::LONGEST;
use crate::fields;
use crate::image::Reference;
use crate::image_policy::{ImagePolicy, TagPattern};
use crate::manifest::{Manifest, Pull};

/// Registries count what they are asked.
const MOST_OFTEN: Duration = Duration::from_secs(10);

/// After the image and its pull policy were read: what may be followed depends on both.
pub(super) fn image_policy(r: &mut Reader, node: &Node<'_>, m: &mut Manifest) {
    const EXPECTED: &str = "an object such as {\"check\": \"5m\", \"match\": \"1.27.*\"}";
    const TAG: &str = "an image with a tag, such as \"nginx:1.27.0\"";
    let Some(f) = &r.object(node, fields::IMAGE_POLICY, EXPECTED) else {
        return;
    };
    let mut policy = ImagePolicy::default();
    r.set(f, "check", &mut policy.check, |r, node| {
        r.duration(node, MOST_OFTEN..=LONGEST)
    });
    r.set(f, "match", &mut policy.tags, pattern);
    let image = m.image.parse::<Reference>().ok();
    if image.as_ref().is_some_and(|image| image.digest.is_some()) {
        let wrong = "has no meaning where `image` is given by its digest, which never changes";
        r.wrong(node, wrong, TAG);
    } else if m.pull == Pull::Never {
        let wrong = "has no meaning where `pull` is \"never\": no registry is asked";
        r.wrong(node, wrong, "one of the two");
    } else if let (Some(node), Some(tags), Some(image)) = (f.get("match"), &policy.tags, image)
        && !tags.matches(image.version())
    {
        let tag = quoted(image.version());
        let wrong = format_args!("does not match {tag}, the tag of `image`");
        r.wrong(node, wrong, "a pattern of tags that begins with that one");
    }
    m.image_policy = Some(policy);
}

fn pattern(r: &mut Reader, node: &Node<'_>) -> Option<TagPattern> {
    const EXPECTED: &str =
        "a tag in which `*` stands for a whole number, such as \"1.27.*\" or \"v*.*.*-alpine\"";
    let text = r.text(node, EXPECTED)?;
    match text.parse() {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            r.wrong(node, format_args!("{} {error}", quoted(text)), EXPECTED);
            None
        }
    }
}
