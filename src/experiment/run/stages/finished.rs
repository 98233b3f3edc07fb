//! The stages of finished sets' rows.

use std::collections::BTreeMap;
use std::path::Path;

use super::images::Images;
use super::validate::{LabelKind, Labelling};
use super::{NodeId, RowNodes, StagesBuilder, import, recognise, validate};
use crate::config::Labels;
use crate::run::finished::{OpenedSet, ReadLabels, SetLabels};
use crate::run::matrix::{self, RowSpec};
use crate::run::{Goal, RunError};
use scdd_artifacts::files::{LABELS, SOFT_LABELS};

impl<'a> StagesBuilder<'a> {
    /// Adds all rows of finished sets.
    pub(super) fn add_finished(&mut self) -> Result<(), RunError> {
        let inputs = self.inputs;
        for name in inputs.experiment.finished.keys() {
            let set = &inputs.finished[name];
            let read_under = set.labels.as_ref().map(|labels| match labels {
                SetLabels::Own(_) => Ok(self.proved_under()),
                SetLabels::Store(labels) => self.read_under(name, labels),
            });
            let rows = matrix::finished_rows(
                &inputs.experiment,
                (name, set.ipc),
                read_under.transpose()?.as_ref(),
            );
            let images = self.add_images(import::draft(name, set)?, None);
            for spec in rows {
                let row = self.finished_row((name, set), &images, spec)?;
                self.stages.rows.push(row);
            }
        }
        Ok(())
    }

    fn finished_row(
        &mut self,
        (name, set): (&str, &'a OpenedSet),
        images: &Images,
        spec: RowSpec<'a>,
    ) -> Result<RowNodes<'a>, RunError> {
        let inputs = self.inputs;
        let (mut labels, mut recognised, mut student) = (None, None, None);
        let protocol = &inputs.experiment.protocols[spec.protocol];
        if self.goal >= Goal::Relabel {
            let node = self.recognise((name, images), spec.labeller)?;
            recognised = Some(node);
            labels = match &set.labels {
                _ if spec.labels == Labels::Hard => None,
                Some(SetLabels::Store(read)) => Some(self.labelling_of(read, images, &spec)),
                Some(SetLabels::Own(_)) => Some(self.own_labelling(images)),
                None => {
                    Some(self.relabel(images, spec.labeller, protocol, spec.seed, vec![node])?)
                }
            };
        }
        if self.goal >= Goal::Validate {
            let trained = (&inputs.bundles[spec.student], self.verified(spec.student));
            let test = &inputs.real()?.test;
            let of = (images, labels.as_ref());
            let mut draft = validate::draft(of, trained, test, protocol, spec.seed)?;
            draft.needs.extend(recognised);
            student = Some(self.add(draft));
        }
        Ok(RowNodes { spec, images: images.clone(), labels, recognised, student })
    }

    /// Adds the proof of the classes of `images` by the teacher at `path`.
    fn recognise(
        &mut self,
        (name, images): (&str, &Images),
        path: &'a Path,
    ) -> Result<NodeId, RunError> {
        let (inputs, checks) = (self.inputs, self.checks_of(path));
        let classes = &inputs.real()?.test.summary.classes;
        let set = (name, inputs.experiment.finished[name].class_map.is_some());
        let draft = recognise::draft(set, images, &inputs.bundles[path], classes, checks)?;
        Ok(self.add(draft))
    }

    /// The labels that were imported with `images`.
    fn labelling_of(&self, read: &ReadLabels, images: &Images, spec: &RowSpec) -> Labelling {
        let directory = &self.stages.nodes[images.node.0].directory;
        let is_known = self.hashes(spec.labeller, spec.protocol) == read.meta.teacher_sha256;
        let stranger = || {
            let hash = &read.meta.teacher_sha256;
            format!("labels of {}", hash.get(..8).unwrap_or(hash))
        };
        let teacher = match is_known {
            true => self.inputs.bundles[spec.labeller].name().to_owned(),
            false => stranger(),
        };
        Labelling {
            node: images.node,
            key: images.key.clone(),
            file: directory.join(LABELS),
            kind: LabelKind::OfViews,
            stranger: (!is_known).then_some(teacher.clone()),
            teacher,
        }
    }

    /// The soft labels of `images` themselves.
    fn own_labelling(&self, images: &Images) -> Labelling {
        Labelling {
            node: images.node,
            key: images.key.clone(),
            file: self.stages.nodes[images.node.0].directory.join(SOFT_LABELS),
            kind: LabelKind::OfImages,
            teacher: "own-labels".into(),
            stranger: Some("its own labels".into()),
        }
    }

    /// The protocols with soft labels, each with the teacher that proves the classes of a set with
    /// labels of its own.
    fn proved_under(&self) -> BTreeMap<&'a str, &'a Path> {
        let experiment = &self.inputs.experiment;
        let soft = experiment.protocols.iter().filter(|(_, settings)| !settings.is_hard());
        let first = experiment.labellers().first().copied();
        soft.filter_map(|(protocol, _)| Some((protocol.as_str(), first?))).collect()
    }

    /// The protocols under which `labels` were made as far as they tell, each with the teacher that
    /// made them. If that is none of the experiment's, the first of these stands for it in the
    /// proof of classes.
    fn read_under(
        &mut self,
        name: &str,
        labels: &ReadLabels,
    ) -> Result<BTreeMap<&'a str, &'a Path>, RunError> {
        let experiment = &self.inputs.experiment;
        let (mut found, mut others) = (BTreeMap::new(), Vec::new());
        for (protocol, settings) in &experiment.protocols {
            if settings.is_hard() {
                continue;
            }
            let differences = labels.differences(settings);
            if !differences.is_empty() {
                others.push(format!("protocol `{protocol}`: in them {}", differences.join(", ")));
                continue;
            }
            let all = experiment.labellers();
            let own =
                all.iter().find(|path| self.hashes(path, protocol) == labels.meta.teacher_sha256);
            found.extend(own.or(all.first()).map(|path| (protocol.as_str(), *path)));
        }
        let (path, others) = (labels.file.clone(), others.join("; "));
        if found.is_empty() && experiment.labels.contains(&Labels::Soft) {
            let what = format!(
                "was made under none of the experiment's protocols ({others}): set what it was made with, or leave out `finished.{name}.labels`"
            );
            return Err(RunError::Misfit { path, what });
        }
        if !others.is_empty() {
            self.stages.remarks.push(format!(
                "{}: labels of `{name}` that are read give no rows under {others}",
                path.display()
            ));
        }
        Ok(found)
    }

    /// The hashes of the teachers that label with the one at `labeller` under `protocol`, as label
    /// stores have them.
    fn hashes(&self, labeller: &Path, protocol: &str) -> String {
        let relabel = &self.inputs.experiment.protocols[protocol].relabel;
        let answering = self.inputs.answering(labeller, relabel);
        answering.iter().map(|(bundle, _)| bundle.hash.as_str()).collect::<Vec<_>>().join("+")
    }
}
