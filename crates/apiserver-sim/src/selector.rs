//! The label and field selectors that kube-proxy and sluice use.

use crate::store::Version;

/// The objects that a request selects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    /// `!key`.
    absent_labels: Vec<String>,
    /// `metadata.name=`.
    name: Option<String>,
    /// `spec.clusterIP!=None`.
    no_headless: bool,
}

impl Selector {
    /// Parse the selectors.
    ///
    /// # Errors
    /// The unsupported requirement.
    pub(crate) fn parse(labels: &str, fields: &str) -> Result<Self, String> {
        let mut selector = Self::default();
        for requirement in labels.split(',').filter(|r| !r.is_empty()) {
            match requirement.strip_prefix('!') {
                Some(key) => selector.absent_labels.push(key.to_owned()),
                None => return Err(format!("unable to parse requirement: {requirement}")),
            }
        }
        for requirement in fields.split(',').filter(|r| !r.is_empty()) {
            if let Some(name) = requirement.strip_prefix("metadata.name=") {
                selector.name = Some(name.to_owned());
            } else if requirement == "spec.clusterIP!=None" {
                selector.no_headless = true;
            } else {
                return Err(format!("field label not supported: {requirement}"));
            }
        }
        Ok(selector)
    }

    pub(crate) fn matches(&self, version: &Version) -> bool {
        let named = self.name.as_ref().is_none_or(|name| *name == version.name);
        let labelled = |key: &String| version.labels.contains_key(key);
        named && !(self.no_headless && version.headless) && !self.absent_labels.iter().any(labelled)
    }
}
