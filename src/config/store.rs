//! `[evidence.copy]`: an object store, by the option names that the `object_store` crate knows.
//!
//! Which names there are is the crate's word; the lists here only serve to suggest, and a test keeps them true.

use std::{collections::BTreeMap, path::Path, str::FromStr};

use object_store::{aws::AmazonS3ConfigKey, azure::AzureConfigKey, gcp::GoogleConfigKey};
use secrecy::SecretString;
use url::Url;

use crate::model::settings::{CopySettings, Secret};

use super::{
    error::Problem,
    raw::{Node, NodeKind, Table, nearest},
};

/// One kind of store.
struct Store {
    scheme: &'static str,
    example: &'static str,
    /// The crate's own name of an option, where it knows it.
    canonical: fn(&str) -> Option<String>,
    /// Options that are worth suggesting.
    options: &'static [&'static str],
    /// Those whose value is a secret, by the crate's own names.
    secrets: &'static [&'static str],
}

const STORES: &[Store] = &[
    Store {
        scheme: "s3",
        example: "s3://bucket/prefix",
        canonical: named::<AmazonS3ConfigKey>,
        options: &[
            "aws_region",
            "aws_endpoint",
            "aws_access_key_id",
            "aws_secret_access_key",
            "aws_session_token",
            "aws_allow_http",
            "aws_virtual_hosted_style_request",
            "aws_role_arn",
            "aws_web_identity_token_file",
            "aws_server_side_encryption",
            "aws_sse_kms_key_id",
            "aws_checksum_algorithm",
            "aws_disable_tagging",
            "proxy_url",
            "timeout",
        ],
        secrets: &["aws_secret_access_key", "aws_session_token", "aws_sse_customer_key_base64"],
    },
    Store {
        scheme: "gs",
        example: "gs://bucket/prefix",
        canonical: named::<GoogleConfigKey>,
        options: &[
            "google_service_account",
            "google_service_account_key",
            "google_application_credentials",
            "google_base_url",
            "proxy_url",
            "timeout",
        ],
        secrets: &["google_service_account_key", "google_bearer_token"],
    },
    Store {
        scheme: "az",
        example: "az://container/prefix",
        canonical: named::<AzureConfigKey>,
        options: &[
            "azure_storage_account_name",
            "azure_storage_account_key",
            "azure_storage_sas_key",
            "azure_client_id",
            "azure_client_secret",
            "azure_tenant_id",
            "azure_federated_token_file",
            "azure_storage_endpoint",
            "azure_storage_use_emulator",
            "proxy_url",
            "timeout",
        ],
        secrets: &[
            "azure_storage_account_key",
            "azure_storage_client_secret",
            "azure_storage_sas_key",
            "azure_storage_token",
            "azure_storage_encryption_key",
            "azure_fabric_session_token",
        ],
    },
    Store {
        scheme: "file",
        example: "file:///mnt/evidence",
        canonical: |_| None,
        options: &[],
        secrets: &[],
    },
];

fn named<K: FromStr + AsRef<str>>(name: &str) -> Option<String> {
    name.to_ascii_lowercase().parse::<K>().ok().map(|key| key.as_ref().to_owned())
}

/// Reads `[evidence.copy]`.
pub(super) fn copy(table: Table<'_>, data_dir: &Path, base: &Path) -> Option<CopySettings> {
    let url = url(&table, data_dir);
    let options = table.table_or_empty("options");
    let store = url
        .as_ref()
        .and_then(|url| STORES.iter().find(|store| store.scheme == url.scheme()));
    let read = match store {
        Some(store) => options
            .entries()
            .into_iter()
            .filter_map(|(name, node)| option(store, &name, &node, &options, base))
            .collect(),
        // Which options there are depends on the store.
        None => BTreeMap::new(),
    };
    table.close();
    Some(CopySettings { url: url?, options: read })
}

fn url(table: &Table<'_>, data_dir: &Path) -> Option<Url> {
    let examples: Vec<String> = STORES.iter().map(|store| format!("{:?}", store.example)).collect();
    let allowed = format!("a store's URL: {}", examples.join(", "));
    let Some(node) = table.get("url").cloned() else {
        table.problems.add(table.missing("url", allowed));
        return None;
    };
    let text = table.text("url")?;
    let refuse = |problem: Problem, hint: String| {
        table.problems.add(problem.hint(hint));
        None
    };
    let url = match Url::parse(text.trim()) {
        Ok(url) => url,
        Err(error) => return refuse(node.hidden_problem(allowed), error.to_string()),
    };
    if !url.username().is_empty() || url.password().is_some() {
        let hint = "credentials do not belong into it: use options with { file = \"...\" }, or the environment";
        return refuse(node.hidden_problem(allowed), hint.to_owned());
    }
    let Some(store) = STORES.iter().find(|store| store.scheme == url.scheme()) else {
        let hint = match url.scheme() {
            "http" | "https" => "for an S3-compatible server write s3://bucket/prefix and options.aws_endpoint".to_owned(),
            other => format!("there is no store {other}://"),
        };
        return refuse(node.problem(allowed), hint);
    };
    if url.query().is_some() || url.fragment().is_some() {
        return refuse(node.problem(allowed), "it has neither ? nor #".to_owned());
    }
    if store.scheme != "file" && !url.has_host() {
        return refuse(node.problem(allowed), format!("name the bucket: {}", store.example));
    }
    if store.scheme == "file" {
        if url.has_host() || url.path() == "/" {
            return refuse(
                node.problem(allowed),
                "a folder has three slashes and an absolute path: file:///mnt/evidence".to_owned(),
            );
        }
        if Path::new(url.path()).starts_with(data_dir) {
            return refuse(
                node.problem("a folder outside of data_dir"),
                "a copy on the same disk is lost with it".to_owned(),
            );
        }
    }
    Some(url)
}

fn option(store: &Store, name: &str, node: &Node, options: &Table<'_>, base: &Path) -> Option<(String, Secret)> {
    let problems = options.problems;
    let Some(canonical) = (store.canonical)(name) else {
        let known = if store.options.is_empty() {
            "no options: a folder has none".to_owned()
        } else {
            format!("{}, and the others that the object_store crate knows", store.options.join(", "))
        };
        problems.add(Problem {
            found: "an unknown option".to_owned(),
            hint: nearest(&name.to_ascii_lowercase(), store.options.iter().copied()).map(|near| format!("did you mean {near}?")),
            ..node.problem(known)
        });
        return None;
    };
    let secretive = store.secrets.contains(&canonical.as_str());
    let plain = match &node.kind {
        NodeKind::Text(text) => text.clone(),
        NodeKind::Whole(whole) => whole.to_string(),
        NodeKind::Flag(flag) => flag.to_string(),
        NodeKind::Table(_) => {
            let inner = node.table(problems)?;
            let file = inner.file_path("file", base);
            if inner.get("file").is_none() {
                problems.add(inner.missing("file", "the path of a file that holds the option's value"));
            }
            inner.close();
            return file.map(|file| (name.to_ascii_lowercase(), Secret::File(file)));
        }
        NodeKind::Number(_) | NodeKind::List(_) => {
            problems.add(node.hidden_problem("a text, a whole number, true or false, or { file = \"...\" }"));
            return None;
        }
    };
    if secretive && !node.is_from_outside() {
        problems.add(
            node.hidden_problem(format!("{name} = {{ file = \"...\" }}"))
                .hint("a secret does not belong into the configuration: put it into a file of its own, or into the environment"),
        );
        return None;
    }
    Some((name.to_ascii_lowercase(), Secret::Value(SecretString::from(plain))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_that_is_suggested_is_one_and_every_secret_is_known_by_the_crates_name() {
        for store in STORES {
            for name in store.options {
                assert!((store.canonical)(name).is_some(), "{name}");
            }
            for name in store.secrets {
                assert_eq!((store.canonical)(name).as_deref(), Some(*name), "{name}");
            }
        }
    }
}
