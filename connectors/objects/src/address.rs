//! Which object store a URL means.

use std::fmt;
use std::sync::Arc;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use pyflare_connectors::CheckpointError;
use url::Url;

/// A bucket or container and a path in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    cloud: Cloud,
    bucket: String,
    path: Path,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cloud {
    S3,
    Google,
    Azure,
}

impl Cloud {
    /// The variables that name the address of a service that is not the cloud's own.
    fn endpoints(self) -> &'static [&'static str] {
        match self {
            Cloud::S3 => &["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"],
            Cloud::Google => &["GOOGLE_BASE_URL"],
            Cloud::Azure => &[
                "AZURE_STORAGE_ENDPOINT",
                "AZURE_ENDPOINT",
                "AZURITE_BLOB_STORAGE_URL",
            ],
        }
    }

    const ALL: [(&'static str, Cloud); 3] = [("s3", Cloud::S3), ("gs", Cloud::Google), ("az", Cloud::Azure)];
}

impl Address {
    /// `s3://bucket/path`, `gs://bucket/path` or `az://container/path`. A URL that is wrong is not repeated: somebody may have
    /// written a password into it.
    pub fn parse(url: &str) -> Result<Address, CheckpointError> {
        let refused = |detail: &str| {
            Err(CheckpointError::Settings {
                detail: format!(
                    "checkpoints.url must be 'local', s3://bucket/path, gs://bucket/path or az://container/path: {detail}"
                ),
            })
        };
        let Ok(parsed) = Url::parse(url) else {
            return refused("it is not a URL");
        };
        let known = Cloud::ALL.iter().find(|(scheme, _)| *scheme == parsed.scheme());
        let Some((_, cloud)) = known else {
            return refused(&format!("{:?} is not known to this build", parsed.scheme()));
        };
        let is_plain = parsed.username().is_empty()
            && parsed.password().is_none()
            && parsed.port().is_none()
            && parsed.query().is_none()
            && parsed.fragment().is_none();
        if !is_plain {
            return refused("credentials, ports and options belong into the environment");
        }
        let Some(bucket) = parsed.host_str().filter(|bucket| !bucket.is_empty()) else {
            return refused("it names no bucket");
        };
        // What a URL's reader makes of dots, spaces and line ends is another place than what was written.
        if url.trim_end_matches('/')
            != format!(
                "{}://{bucket}{}",
                parsed.scheme(),
                parsed.path().trim_end_matches('/')
            )
        {
            return refused("a path is made of letters, digits, '-', '_', '.' and '/', and has no '..'");
        }
        match Path::parse(parsed.path().trim_matches('/')) {
            Ok(path) => Ok(Address {
                cloud: *cloud,
                bucket: bucket.into(),
                path,
            }),
            Err(error) => refused(&error.to_string()),
        }
    }

    pub(crate) fn open(
        &self,
        retry: RetryConfig,
        client: ClientOptions,
    ) -> Result<(Arc<dyn ObjectStore>, Path), CheckpointError> {
        for name in self.cloud.endpoints() {
            if let Ok(endpoint) = std::env::var(name)
                && Url::parse(&endpoint).map_or(true, |endpoint| !endpoint.has_host())
            {
                return Err(CheckpointError::Settings {
                    detail: format!("{name} must be a URL like https://host:port; it is not"),
                });
            }
        }
        let store = match self.cloud {
            Cloud::S3 => AmazonS3Builder::from_env()
                .with_bucket_name(&self.bucket)
                .with_retry(retry)
                .with_client_options(client_of("AWS", client))
                .build()
                .map(|store| Arc::new(store) as Arc<dyn ObjectStore>),
            Cloud::Google => GoogleCloudStorageBuilder::from_env()
                .with_bucket_name(&self.bucket)
                .with_retry(retry)
                .with_client_options(client_of("GOOGLE", client))
                .build()
                .map(|store| Arc::new(store) as Arc<dyn ObjectStore>),
            Cloud::Azure => MicrosoftAzureBuilder::from_env()
                .with_container_name(&self.bucket)
                .with_retry(retry)
                .with_client_options(client_of("AZURE", client))
                .build()
                .map(|store| Arc::new(store) as Arc<dyn ObjectStore>),
        };
        let store = store.map_err(|error| CheckpointError::Settings {
            detail: format!("{self}: {error}"),
        })?;
        Ok((store, self.path.clone()))
    }
}

/// Options that are given replace those of the environment: the one that tests and private clouds need is asked again.
fn client_of(cloud: &str, client: ClientOptions) -> ClientOptions {
    let allowed = std::env::var(format!("{cloud}_ALLOW_HTTP"));
    client.with_allow_http(allowed.is_ok_and(|text| matches!(text.as_str(), "true" | "1")))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = Cloud::ALL.iter().find(|(_, cloud)| *cloud == self.cloud);
        let scheme = scheme.map_or("", |(scheme, _)| scheme);
        write!(f, "{scheme}://{}", self.bucket)?;
        match self.path.as_ref() {
            "" => Ok(()),
            path => write!(f, "/{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_as_they_were_given() {
        for url in ["s3://bucket/a/b", "gs://bucket", "az://container/pyflare"] {
            let address = Address::parse(url).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(address.to_string(), url);
        }
        let tidied = Address::parse("s3://bucket/a/").map(|address| address.to_string());
        assert_eq!(tidied, Ok("s3://bucket/a".into()));
    }

    #[test]
    fn wrong_ones_are_refused_and_not_repeated() {
        for wrong in [
            "",
            "bucket/path",
            "s3://",
            "s3:///path",
            "ftp://bucket/path",
            "s3://key:secret@bucket/path",
            "s3://bucket:9000/path",
            "az://container/path?sig=secret",
            "s3://bucket/a//b",
            "s3://bucket/../x",
            "s3://bucket/a/%2e%2e/b",
            "s3://bucket/ä",
            "s3://bucket/a b",
            "s3://bucket/a\nb",
        ] {
            let Err(error) = Address::parse(wrong) else {
                panic!("{wrong:?} was taken");
            };
            let text = error.to_string();
            assert!(text.starts_with("PF-2403") && !text.contains("secret"), "{text}");
        }
    }
}
