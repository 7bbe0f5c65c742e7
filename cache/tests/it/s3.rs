//! An S3 store that misbehaves: what a broken request costs, and what is left behind.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use cache::bundle::{BundleError, Place, S3Place, S3Prefixes, S3Writing};
use cache::image::document::descriptor;
use cache::oci::{Descriptor, Digest, MediaType};
use cache::remote::{CredentialFiles, RegistryConfig, S3Options};

use crate::registry::{FakeRegistry, Reply, Seen};
use crate::world::World;

const MIB: usize = 1 << 20;

fn config() -> RegistryConfig {
    RegistryConfig {
        credentials: CredentialFiles::none(),
        backoff: Duration::from_millis(5),
        patience: Duration::from_millis(500),
        attempts: 3,
        longest_wait: Duration::from_secs(1),
        ..RegistryConfig::default()
    }
}

fn place(server: &FakeRegistry) -> Arc<dyn Place> {
    let options = S3Options {
        bucket: "caches".to_owned(),
        region: "eu-west-1".to_owned(),
        endpoint: Some(format!("http://{}", server.address)),
        path_style: true,
        credentials: Some(("key".to_owned(), "secret".to_owned(), None)),
    };
    let prefixes = S3Prefixes {
        prefix: "a team/".to_owned(),
        blobs: "blobs/".to_owned(),
        manifests: "manifests/".to_owned(),
    };
    let names = vec!["app".to_owned()];
    Arc::new(S3Place::new(&options, &prefixes, names, S3Writing::default(), config()).unwrap())
}

/// A blob of the store: `size` bytes that differ from part to part.
fn blob(world: &World, size: usize) -> (Descriptor, Vec<u8>) {
    let mut bytes = Vec::with_capacity(size);
    for number in 0..size.div_ceil(4099) {
        bytes.resize(size.min((number + 1) * 4099), number as u8);
    }
    let digest = world.store.blobs().put(&bytes).unwrap();
    (descriptor(MediaType::ImageLayer, size as u64, &digest), bytes)
}

fn error(status: u16, code: &str) -> Reply {
    let body = format!("<Error><Code>{code}</Code><Message>for a test</Message></Error>");
    Reply::body(body.as_bytes()).status(status)
}

/// The value of a field of the query.
fn field<'a>(seen: &'a Seen, name: &str) -> Option<&'a str> {
    let query = seen.path.split_once('?')?.1;
    query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

/// A store that takes uploads in parts properly.
fn uploads(seen: &Seen) -> Reply {
    const XML: &str = "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"";
    match (seen.method.as_str(), field(seen, "uploads"), field(seen, "partNumber")) {
        ("HEAD", ..) => Reply::new(404),
        ("POST", Some(_), _) => {
            let answer = format!(
                "<InitiateMultipartUploadResult {XML}><Bucket>caches</Bucket><Key>k</Key>\
                 <UploadId>an id</UploadId></InitiateMultipartUploadResult>"
            );
            Reply::body(answer.as_bytes())
        }
        ("PUT", _, Some(number)) => Reply::new(200).header("ETag", format!("\"part-{number}\"")),
        ("POST", None, _) => {
            let answer = format!(
                "<CompleteMultipartUploadResult {XML}><ETag>\"all\"</ETag>\
                 </CompleteMultipartUploadResult>"
            );
            Reply::body(answer.as_bytes())
        }
        ("DELETE", ..) => Reply::new(204),
        _ => Reply::new(501),
    }
}

fn parts(server: &FakeRegistry) -> Vec<(String, Vec<u8>)> {
    let parts = server.seen().into_iter();
    let parts = parts.filter_map(|seen| Some((field(&seen, "partNumber")?.to_owned(), seen.body)));
    parts.collect()
}

fn aborted(server: &FakeRegistry) -> bool {
    let seen = server.seen();
    seen.iter().any(|seen| seen.method == "DELETE" && field(seen, "uploadId") == Some("an%20id"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_goes_in_parts_and_one_that_breaks_goes_again_alone() {
    // The second part is refused for the time being, and then its server falls silent.
    let tries = AtomicUsize::new(0);
    let server = FakeRegistry::start(move |seen, _| {
        if field(seen, "partNumber") == Some("2") {
            match tries.fetch_add(1, SeqCst) {
                0 => return error(503, "SlowDown"),
                1 => return Reply::silent(),
                _ => {}
            }
        }
        uploads(seen)
    });
    let world = World::new();
    let (blob, bytes) = blob(&world, 40 * MIB);
    assert!(place(&server).send(&blob, world.store.blobs()).await.unwrap());
    let mut sent = parts(&server);
    sent.sort();
    let numbers: Vec<_> = sent.iter().map(|(number, _)| number.as_str()).collect();
    assert_eq!(numbers, ["1", "2", "2", "2", "3"]);
    sent.dedup();
    assert_eq!(sent.into_iter().flat_map(|(_, part)| part).collect::<Vec<_>>(), bytes);
    let last = server.seen().pop().unwrap();
    let body = String::from_utf8(last.body).unwrap();
    let parts = [1, 2, 3].map(|number| {
        format!("<Part><ETag>\"part-{number}\"</ETag><PartNumber>{number}</PartNumber></Part>")
    });
    let body = body.replace("&quot;", "\"");
    let expected = format!("<CompleteMultipartUpload>{}</CompleteMultipartUpload>", parts.concat());
    assert_eq!(body, expected);
    assert!(!aborted(&server));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_fails_is_taken_back() {
    let server = FakeRegistry::start(|seen, _| match field(seen, "partNumber") {
        Some("3") => error(403, "AccessDenied"),
        _ => uploads(seen),
    });
    let world = World::new();
    let (blob, _) = blob(&world, 40 * MIB);
    let refused = place(&server).send(&blob, world.store.blobs()).await.unwrap_err();
    assert!(refused.to_string().contains("403 Forbidden: AccessDenied: for a test"), "{refused}");
    assert!(aborted(&server));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_nobody_waits_for_any_more_is_taken_back() {
    let server = FakeRegistry::start(|seen, _| match field(seen, "partNumber") {
        Some("1") => Reply::silent(),
        _ => uploads(seen),
    });
    let world = World::new();
    let (blob, _) = blob(&world, 20 * MIB);
    let place = place(&server);
    let begun = async {
        while parts(&server).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        sent = place.send(&blob, world.store.blobs()) => panic!("sent: {sent:?}"),
        () = begun => {}
    }
    assert!(!aborted(&server));
    drop(place);
    assert!(aborted(&server));
}

#[tokio::test(flavor = "multi_thread")]
async fn putting_together_may_fail_behind_a_success_or_work_unheard() {
    let world = World::new();
    let (blob, bytes) = blob(&world, 20 * MIB);
    // A success that is none, and one more try.
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let server = FakeRegistry::start(move |seen, _| {
        let completes = seen.method == "POST" && field(seen, "uploads").is_none();
        match completes && counted.fetch_add(1, SeqCst) == 0 {
            true => error(200, "InternalError"),
            false => uploads(seen),
        }
    });
    place(&server).send(&blob, world.store.blobs()).await.unwrap();
    assert_eq!(tries.load(SeqCst), 2);
    assert!(!aborted(&server));
    // The answer to the first try got lost: the upload is no more, the object is there.
    let size = bytes.len();
    let asked = AtomicUsize::new(0);
    let server = FakeRegistry::start(move |seen, _| match seen.method.as_str() {
        "HEAD" if asked.fetch_add(1, SeqCst) > 0 => Reply::body(&vec![0; size]),
        "POST" if field(seen, "uploads").is_none() => error(404, "NoSuchUpload"),
        _ => uploads(seen),
    });
    place(&server).send(&blob, world.store.blobs()).await.unwrap();
    assert!(!aborted(&server));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_goes_on_where_it_broke() {
    let (here, there) = (World::new(), World::new());
    let (blob, bytes) = blob(&here, 3 * MIB);
    let served = bytes.clone();
    let server = FakeRegistry::start(move |seen, _| {
        let range = seen.range.as_deref().and_then(|range| range.strip_prefix("bytes="));
        let range = range.and_then(|range| range.strip_suffix('-')?.parse::<usize>().ok());
        match range {
            None => Reply::body(&served).cut(2 * MIB),
            Some(start) => {
                let rest = Reply::body(&served[start..]).status(206);
                let last = served.len() - 1;
                rest.header("Content-Range", format!("bytes {start}-{last}/{}", served.len()))
            }
        }
    });
    place(&server).fetch(&blob, there.store.blobs()).await.unwrap();
    let ranges: Vec<_> = server.seen().into_iter().map(|seen| seen.range).collect();
    assert_eq!(ranges.len(), 2);
    assert!(ranges[1].as_deref().is_some_and(|range| range != "bytes=0-"), "{ranges:?}");
    assert!(there.store.blobs().holds(&blob).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_has_got_old_is_copied_onto_itself() {
    let world = World::new();
    let (blob, bytes) = blob(&world, 1000);
    let key = format!("/caches/a%20team/blobs/{}", blob.digest().to_string().replace(':', "%3A"));
    for (written, copying, copied, sent) in [
        ("Fri, 27 Nov 2026 10:00:00 GMT", 200, true, false),
        ("Sat, 28 Nov 2026 09:00:00 GMT", 200, false, false),
        // It went away just now, or nothing can be copied there.
        ("Fri, 27 Nov 2026 09:00:00 GMT", 404, true, true),
        ("Fri, 27 Nov 2026 09:00:00 GMT", 501, true, true),
    ] {
        let size = bytes.len();
        let server = FakeRegistry::start(move |seen, _| match seen.method.as_str() {
            "HEAD" => Reply::body(&vec![0; size])
                .header("Date", "Sat, 28 Nov 2026 10:00:01 GMT")
                .header("Last-Modified", written),
            "PUT" if seen.copy_source.is_some() && copying == 200 => {
                Reply::body(b"<CopyObjectResult><ETag>\"x\"</ETag></CopyObjectResult>")
            }
            "PUT" if seen.copy_source.is_some() => error(copying, "NoSuchKey"),
            _ => Reply::new(200),
        });
        let new = place(&server).send(&blob, world.store.blobs()).await.unwrap();
        assert_eq!(new, sent, "{written} {copying}");
        let puts = server.requests("PUT", &key);
        let copies: Vec<_> = puts.iter().filter_map(|put| put.copy_source.clone()).collect();
        assert_eq!(copies, vec![key.clone(); usize::from(copied)], "{written} {copying}");
        let signed = |put: &Seen| field(put, "X-Amz-SignedHeaders").map(str::to_owned);
        if copied {
            let expected = "host%3Bx-amz-copy-source%3Bx-amz-metadata-directive";
            assert_eq!(signed(&puts[0]).as_deref(), Some(expected));
        }
        assert_eq!(puts.iter().any(|put| put.body == bytes), sent, "{written} {copying}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_request_cannot_copy_is_copied_in_parts() {
    let size = (5 << 30) + 1;
    let server = FakeRegistry::start(move |seen, _| match seen.method.as_str() {
        "HEAD" => Reply::new(200)
            .length(size)
            .header("Date", "Sat, 28 Nov 2026 10:00:00 GMT")
            .header("Last-Modified", "Fri, 20 Nov 2026 10:00:00 GMT"),
        "PUT" if seen.copy_source.is_some() => {
            let number = field(seen, "partNumber").unwrap();
            let answer =
                format!("<CopyPartResult><ETag>&quot;{number}&quot;</ETag></CopyPartResult>");
            Reply::body(answer.as_bytes())
        }
        _ => uploads(seen),
    });
    let world = World::new();
    let blob = descriptor(MediaType::ImageLayer, size, &Digest::of(b"not here"));
    assert!(!place(&server).send(&blob, world.store.blobs()).await.unwrap());
    let seen = server.seen();
    let mut ranges: Vec<_> = seen.iter().filter_map(|seen| seen.copy_range.clone()).collect();
    ranges.sort();
    let last = format!("bytes={}-{}", 5_u64 << 30, 5_u64 << 30);
    assert_eq!((ranges.len(), ranges[0].as_str()), (6, "bytes=0-1073741823"));
    assert_eq!(ranges[5], last);
    let body = String::from_utf8(seen.last().unwrap().body.clone()).unwrap();
    assert_eq!(body.matches("<Part>").count(), 6, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_in_s3s_words_and_a_later_is_not_waited_for_forever() {
    let server = FakeRegistry::start(|_, _| error(404, "NoSuchBucket"));
    let refused = place(&server).read().await.map(drop).unwrap_err();
    assert!(refused.to_string().ends_with("404 Not Found: NoSuchBucket: for a test"), "{refused}");
    let server = FakeRegistry::start(|_, _| error(404, "NoSuchKey"));
    let missing = place(&server).read().await.map(drop).unwrap_err();
    assert!(matches!(missing, BundleError::Missing { .. }), "{missing}");
    let server =
        FakeRegistry::start(|_, _| Reply::new(301).header("x-amz-bucket-region", "eu-north-1"));
    let refused = place(&server).read().await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("(the bucket is in eu-north-1)"), "{refused}");
    let server = FakeRegistry::start(|_, _| error(503, "SlowDown"));
    let refused = place(&server).read().await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("SlowDown"), "{refused}");
    assert_eq!(server.seen().len(), 3);
    let server = FakeRegistry::start(|_, _| error(503, "SlowDown").header("Retry-After", 3600));
    place(&server).read().await.map(drop).unwrap_err();
    assert_eq!(server.seen().len(), 1);
}
