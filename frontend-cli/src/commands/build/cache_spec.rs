//! `--cache-from` and `--cache-to`: where a build cache travels from and to.
//!
//! `type=registry|local|inline|s3` and further fields in BuildKit's grammar; without a `=` it is a
//! list of references to registries.

use std::path::PathBuf;

use cache::bundle::{S3Prefixes, S3Writing};
use cache::oci::{Digest, ImageName};
use cache::remote::S3Options;
use exporter::LayerForm;

use super::output::Fields;
use crate::dockerfile::nearest;
use crate::report::CliError;

/// Where a cache is.
#[derive(Debug, Clone)]
pub(crate) enum PlaceSpec {
    Registry { name: Box<ImageName>, insecure: bool },
    Local { directory: PathBuf, tag: String, digest: Option<Digest> },
    S3(Box<S3Spec>),
}

/// A bucket and what of it is a cache's.
#[derive(Debug, Clone)]
pub(crate) struct S3Spec {
    pub(crate) options: S3Options,
    pub(crate) prefixes: S3Prefixes,
    pub(crate) names: Vec<String>,
    /// What `--cache-from` leaves as it is.
    pub(crate) writing: S3Writing,
    /// How often a request is tried.
    pub(crate) attempts: Option<u32>,
}

/// One `--cache-from`.
#[derive(Debug, Clone)]
pub(crate) struct CacheFrom {
    pub(crate) place: PlaceSpec,
}

/// One `--cache-to`.
#[derive(Debug, Clone)]
pub(crate) struct CacheTo {
    /// `None`: in the image itself.
    pub(crate) place: Option<PlaceSpec>,
    /// Whether the results of all steps go, or only those that the result is made of.
    pub(crate) all_steps: bool,
    pub(crate) form: LayerForm,
    /// Whether the build succeeds although the cache cannot be written.
    pub(crate) ignore_error: bool,
}

const TYPES: [&str; 4] = ["registry", "local", "inline", "s3"];

pub(super) fn cache_from(specs: &[String]) -> Result<Vec<CacheFrom>, CliError> {
    cache_from_of("--cache-from", specs)
}

fn cache_from_of(flag: &'static str, specs: &[String]) -> Result<Vec<CacheFrom>, CliError> {
    let mut from = Vec::new();
    for spec in specs {
        if !spec.contains('=') {
            let names = spec.split(',').filter(|name| !name.is_empty());
            for name in names {
                let name = Box::new(reference(flag, spec, name)?);
                from.push(CacheFrom { place: PlaceSpec::Registry { name, insecure: false } });
            }
            continue;
        }
        let mut fields = Fields::split(flag, spec)?;
        let kind = kind(&mut fields)?;
        let place = match kind.as_str() {
            "inline" => {
                return Err(fields.invalid("an inline cache is read with type=registry,ref=IMAGE"));
            }
            kind => place(kind, &mut fields, "src")?,
        };
        fields.finish()?;
        from.push(CacheFrom { place });
    }
    Ok(from)
}

pub(super) fn cache_to(specs: &[String]) -> Result<Vec<CacheTo>, CliError> {
    cache_to_of("--cache-to", specs)
}

fn cache_to_of(flag: &'static str, specs: &[String]) -> Result<Vec<CacheTo>, CliError> {
    let mut to = Vec::new();
    for spec in specs {
        if !spec.contains('=') && spec != "inline" {
            let name = Box::new(reference(flag, spec, spec)?);
            let place = Some(PlaceSpec::Registry { name, insecure: false });
            let form = LayerForm::default();
            to.push(CacheTo { place, all_steps: false, form, ignore_error: true });
            continue;
        }
        let spec = if spec == "inline" { "type=inline" } else { spec };
        let mut fields = Fields::split(flag, spec)?;
        let kind = kind(&mut fields)?;
        if kind == "inline" {
            fields.finish()?;
            let form = LayerForm::default();
            to.push(CacheTo { place: None, all_steps: false, form, ignore_error: true });
            continue;
        }
        let all_steps = match fields.take("mode").as_deref() {
            None | Some("min") => false,
            Some("max") => true,
            Some(mode) => {
                return Err(fields
                    .invalid(&format!("unknown mode `{mode}`"))
                    .hint("use min or max"));
            }
        };
        let ignore_error = fields.flag_or("ignore-error", true)?;
        let form = LayerForm {
            compression: fields.compression()?,
            force: fields.flag("force-compression")?,
        };
        for field in ["image-manifest", "oci-mediatypes"] {
            if !fields.flag_or(field, true)? {
                let reason = format!("{field}=false is not supported");
                return Err(fields
                    .invalid(&reason)
                    .hint("a cache is an OCI image manifest always"));
            }
        }
        let place = Some(place(&kind, &mut fields, "dest")?);
        fields.finish()?;
        to.push(CacheTo { place, all_steps, form, ignore_error });
    }
    Ok(to)
}

/// The destination of `cache export`: a directory, or what `--cache-to` takes.
pub(crate) fn bundle_to(text: &str) -> Result<CacheTo, CliError> {
    let spec = match text.contains('=') {
        true => text.to_owned(),
        false => format!("type=local,\"dest={text}\""),
    };
    let mut specs = cache_to_of("DEST", &[spec])?;
    Ok(specs.remove(0))
}

/// The source of `cache import`: a directory, or what `--cache-from` takes.
pub(crate) fn bundle_from(text: &str) -> Result<PlaceSpec, CliError> {
    let spec = match text.contains('=') {
        true => text.to_owned(),
        false => format!("type=local,\"src={text}\""),
    };
    let mut specs = cache_from_of("SRC", &[spec])?;
    Ok(specs.remove(0).place)
}

fn kind(fields: &mut Fields<'_>) -> Result<String, CliError> {
    let kind = fields.take("type").ok_or_else(|| fields.invalid("type is required"))?;
    if TYPES.contains(&kind.as_str()) {
        return Ok(kind);
    }
    let error = fields.invalid(&format!("unknown type `{kind}`"));
    Err(match nearest(&kind, TYPES) {
        Some(near) => error.hint(format!("did you mean type={near}?")),
        None => error.hint(format!("use one of {}", TYPES.join(", "))),
    })
}

/// The place of a kind; `path` is what the directory is called.
fn place(kind: &str, fields: &mut Fields<'_>, path: &str) -> Result<PlaceSpec, CliError> {
    match kind {
        "registry" => {
            let insecure = fields.flag("registry.insecure")?;
            let name = fields
                .take("ref")
                .ok_or_else(|| fields.invalid("ref is required: ref=NAME[:TAG]"))?;
            let name = name.parse().map_err(|error| fields.invalid(&format!("{error}")))?;
            Ok(PlaceSpec::Registry { name: Box::new(name), insecure })
        }
        "local" => {
            let directory = fields
                .take(path)
                .ok_or_else(|| fields.invalid(&format!("{path} is required: {path}=DIRECTORY")))?;
            let tag = fields.take("tag").unwrap_or_else(|| "latest".to_owned());
            // What is written has the digest that it gets.
            let digest = if path == "src" { fields.take("digest") } else { None };
            let digest = digest
                .map(|digest| digest.parse().map_err(|error| fields.invalid(&format!("{error}"))))
                .transpose()?;
            Ok(PlaceSpec::Local { directory: directory.into(), tag, digest })
        }
        _ => Ok(PlaceSpec::S3(Box::new(s3(fields, path == "src")?))),
    }
}

/// The fields of `type=s3`; what is not given is taken from the environment, where AWS's own tools
/// find it.
fn s3(fields: &mut Fields<'_>, reading: bool) -> Result<S3Spec, CliError> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let bucket = fields.take("bucket").or_else(|| variable("AWS_BUCKET"));
    let bucket = bucket.ok_or_else(|| fields.invalid("bucket is required: bucket=NAME"))?;
    let region = fields
        .take("region")
        .or_else(|| variable("AWS_REGION"))
        .or_else(|| variable("AWS_DEFAULT_REGION"))
        .ok_or_else(|| fields.invalid("region is required: region=NAME, or AWS_REGION"))?;
    let endpoint = fields.take("endpoint_url");
    let path_style = fields.flag("use_path_style")?;
    let key = fields.take("access_key_id");
    let secret = fields.take("secret_access_key");
    let token = fields.take("session_token");
    let credentials = match (key, secret) {
        (Some(key), Some(secret)) => Some((key, secret, token)),
        (None, None) => match (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
            (Some(key), Some(secret)) => {
                Some((key, secret, token.or_else(|| variable("AWS_SESSION_TOKEN"))))
            }
            _ => None,
        },
        _ => {
            return Err(fields.invalid("access_key_id and secret_access_key belong together"));
        }
    };
    let prefixes = S3Prefixes {
        prefix: fields.take("prefix").unwrap_or_default(),
        blobs: fields.take("blobs_prefix").unwrap_or_else(|| "blobs/".to_owned()),
        manifests: fields.take("manifests_prefix").unwrap_or_else(|| "manifests/".to_owned()),
    };
    let names = fields.take("name").unwrap_or_else(|| "buildkit".to_owned());
    let names: Vec<String> =
        names.split(';').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    // A path segment of dots would be resolved like one of a file system.
    let texts = [&prefixes.prefix, &prefixes.blobs, &prefixes.manifests];
    let dotted = |text: &String| text.split('/').any(|part| matches!(part, "." | ".."));
    if texts.into_iter().chain(&names).any(dotted) {
        return Err(fields.invalid("`.` and `..` cannot be parts of a name"));
    }
    if names.is_empty() || (reading && names.len() > 1) {
        return Err(fields.invalid("one name is read: name=NAME"));
    }
    let options = S3Options { bucket, region, endpoint, path_style, credentials };
    let attempts = count(fields, "retry_max_attempts", 20)?;
    let writing = if reading { S3Writing::default() } else { s3_writing(fields)? };
    Ok(S3Spec { options, prefixes, names, writing, attempts })
}

fn s3_writing(fields: &mut Fields<'_>) -> Result<S3Writing, CliError> {
    let mut writing = S3Writing {
        parallel: count(fields, "upload_parallelism", 64)?.map(|count| count as usize),
        ..S3Writing::default()
    };
    if let Some(text) = fields.take("touch_refresh") {
        writing.refresh = parser::parse_duration(&text)
            .map_err(|error| fields.invalid(&format!("touch_refresh: {error}")))?;
    }
    Ok(writing)
}

/// A number from 1 to `most`.
fn count(fields: &mut Fields<'_>, name: &str, most: u32) -> Result<Option<u32>, CliError> {
    let Some(text) = fields.take(name) else { return Ok(None) };
    match text.parse() {
        Ok(count) if (1..=most).contains(&count) => Ok(Some(count)),
        _ => Err(fields.invalid(&format!("{name} is a number from 1 to {most}, not `{text}`"))),
    }
}

fn reference(flag: &str, spec: &str, text: &str) -> Result<ImageName, CliError> {
    text.parse().map_err(|error| CliError::input(format!("invalid {flag} `{spec}`: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands for a place.
    fn shown(place: &PlaceSpec) -> String {
        match place {
            PlaceSpec::Registry { name, insecure } => format!("{name} {insecure}"),
            PlaceSpec::Local { directory, tag, digest } => {
                let digest = digest.map(|digest| format!("@{digest}")).unwrap_or_default();
                format!("{}:{tag}{digest}", directory.display())
            }
            PlaceSpec::S3(s3) => format!("{}/{:?}", s3.options.bucket, s3.names),
        }
    }

    fn to(spec: &str) -> Result<CacheTo, String> {
        let parsed = cache_to(&[spec.to_owned()]).map_err(|error| error.message())?;
        Ok(parsed.into_iter().next().unwrap())
    }

    fn from(spec: &str) -> Result<Vec<String>, String> {
        let parsed = cache_from(&[spec.to_owned()]).map_err(|error| error.message())?;
        Ok(parsed.into_iter().map(|from| shown(&from.place)).collect())
    }

    #[test]
    fn a_bare_reference_is_a_registrys() {
        let app = "docker.io/user/app:c false";
        assert_eq!(from("user/app:c").unwrap(), [app]);
        assert_eq!(from("type=registry,ref=user/app:c").unwrap(), [app]);
        assert_eq!(from("a.io/x:1,b.io/y:2").unwrap(), ["a.io/x:1 false", "b.io/y:2 false"]);
        assert_eq!(to("user/app:c").unwrap().place.as_ref().map(shown).unwrap(), app);
    }

    #[test]
    fn fields_are_buildkits() {
        let digest = Digest::of(b"x");
        assert_eq!(from("type=local,src=c").unwrap(), ["c:latest"]);
        let found = from(&format!("type=local,src=c,digest={digest}")).unwrap();
        assert_eq!(found, [format!("c:latest@{digest}")]);
        let found = to("type=local,dest=c,tag=t,mode=max,ignore-error=false").unwrap();
        assert_eq!(found.place.as_ref().map(shown).unwrap(), "c:t");
        assert!(found.all_steps && !found.ignore_error);
        assert!(to("type=inline").unwrap().place.is_none());
        let s3 = "type=s3,bucket=b,region=r,endpoint_url=http://127.0.0.1:1,use_path_style=true,\
                  access_key_id=k,secret_access_key=s,session_token=t,prefix=p/,blobs_prefix=b/,\
                  manifests_prefix=m/,name=n";
        assert_eq!(from(s3).unwrap(), ["b/[\"n\"]"]);
        let several = to(&s3.replace("name=n", "name=n;o,mode=max")).unwrap().place.unwrap();
        assert_eq!(shown(&several), "b/[\"n\", \"o\"]");
        let fields = ",upload_parallelism=9,touch_refresh=1h30m,retry_max_attempts=5";
        let Some(PlaceSpec::S3(s3)) = to(&format!("{s3}{fields}")).unwrap().place else {
            panic!("no S3 store");
        };
        let refresh = std::time::Duration::from_secs(5400);
        assert_eq!(s3.writing, S3Writing { parallel: Some(9), refresh });
        assert_eq!(s3.attempts, Some(5));
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        for spec in [
            "type=local",
            "type=lokal,dest=c",
            "type=local,dest=c,src=d",
            "type=local,dest=c,mode=all",
            "type=local,dest=c,compression=rar",
            "type=local,dest=c,digest=sha256:12",
            "type=registry",
            "type=registry,ref=A",
            "type=registry,ref=a,oci-mediatypes=false",
            "type=inline,mode=max",
            "mode=max",
            "type=gha",
            "type=s3,region=r",
            "type=s3,bucket=b,region=r,access_key_id=k",
            "type=s3,bucket=b,region=r,prefix=../",
            "type=s3,bucket=b,region=r,upload_parallelism=0",
            "type=s3,bucket=b,region=r,upload_parallelism=many",
            "type=s3,bucket=b,region=r,touch_refresh=24",
            "type=s3,bucket=b,region=r,retry_max_attempts=0",
            "type=s3,bucket=b,region=r,retry_mode=adaptive",
        ] {
            assert!(to(spec).is_err(), "{spec}");
        }
        let writing = "type=s3,bucket=b,region=r,touch_refresh=24h";
        for spec in
            ["type=local,dest=c", "type=inline", "type=local,src=c,digest=x", "A B", writing]
        {
            assert!(from(spec).is_err(), "{spec}");
        }
    }
}
