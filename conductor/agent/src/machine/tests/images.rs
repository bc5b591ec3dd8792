//! Newer images: asked for, and what is said written.

use model::WriteKind;
use model::images::{ImageAnswer, ImageQuestion, NoAnswer, RegistryImage};

use super::*;

const FOLLOWS: &str = r#"{"image": "app:1", "image_policy": {"check": "10s"}}"#;

fn asks(effects: Vec<Effect>) -> Vec<ImageQuestion> {
    let of = |effect| match effect {
        Effect::Ask(question) => Some(question),
        _ => None,
    };
    effects.into_iter().filter_map(of).collect()
}

fn answer(question: &ImageQuestion, said: Result<&str, &str>) -> Input {
    Input::ImageAnswer(ImageAnswer {
        container: question.container.clone(),
        version: question.version,
        said: said
            .map(|digest| RegistryImage {
                image: "app:1".to_owned(),
                digest: digest.to_owned(),
                at: 7,
            })
            .map_err(|reason| NoAnswer {
                reason: reason.to_owned(),
                retry_after: None,
            }),
    })
}

fn told(effects: &[Effect]) -> Vec<Kind> {
    let mut told = Vec::new();
    for effect in effects {
        if let Effect::Record(happened) = effect {
            told.extend(happened.iter().map(|one| one.kind.clone()));
        }
    }
    told
}

#[test]
fn one_question_is_under_way_at_a_time_and_its_answer_is_written() {
    let mut lab = Lab::at_work();
    lab.has_one(FOLLOWS);
    lab.view();
    assert_eq!(
        asks(lab.effects()),
        [],
        "a part of the time is waited first"
    );
    lab.pass(10_000);
    let asked = asks(lab.effects());
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].image.as_str(), &asked[0].tags), ("app:1", &None));
    lab.pass(60_000);
    assert_eq!(asks(lab.effects()), [], "it is not answered yet");

    lab.on(answer(&asked[0], Err("it is away")));
    assert!(told(&lab.effects()).contains(&Kind::ImageUnknown));
    lab.pass(29_000);
    assert_eq!(asks(lab.effects()), []);
    lab.pass(1_000);
    let again = asks(lab.effects());
    assert_eq!(again, asked);

    // What it runs already is no news; another digest is.
    lab.on(answer(&again[0], Ok("sha256:app")));
    let found = |effects: Vec<Effect>| -> Vec<Write> {
        let all = writes(effects).into_iter();
        all.filter(|write| write.kind == WriteKind::Found).collect()
    };
    assert_eq!(found(lab.effects()), []);
    lab.pass(10_000);
    let once_more = asks(lab.effects());
    lab.on(answer(&once_more[0], Ok("sha256:new")));
    let written = found(lab.effects());
    let (_, image) = written[0].found_image().expect("an image");
    assert_eq!(
        (image.digest.as_str(), image.since),
        ("sha256:new", Some(7))
    );

    // Somebody else was first: what that is decides.
    lab.answer(written, Some(false));
    lab.put_decided(r#"{"image": "app:2", "image_policy": {"check": "10s"}}"#);
    lab.view();
    lab.pass(5_000);
    assert_eq!(
        found(lab.effects()),
        [],
        "the answer is about another version"
    );
}
