//! The teachers of a recovery, and their loss and gradient on a batch: of one teacher in turn, or
//! of all together.

use ndarray::Array4;
use tch::{Device, TchError, Tensor};

use super::adjust::adjusted;
use super::plan_cache::PlanCache;
use super::{Point, RecoverError, alignment};
use crate::teacher::{Bundle, LayerStatistics};
use scdd_compute::replica::{Replica, ReplicaError, to_array, to_tensor};
use scdd_compute::synthesis::{Momentum, Objective, PlanOptions, SynthesisPlan, TermGradients};
use scdd_experiment::config::{BnWeight, RecoverConfig, Turn};

/// One teacher, ready for synthesis.
struct CommitteeMember<'a> {
    bundle: &'a Bundle,
    r_bn: f64,
    plans: PlanCache,
    device: Device,
    /// The weight of this teacher's loss where all are evaluated.
    weight: f64,
}

/// One or several teachers for the same images.
pub struct TeacherCommittee<'a> {
    members: Vec<CommitteeMember<'a>>,
    config: &'a RecoverConfig,
    turn: Turn,
    device: Device,
}

/// The objective of one batch: its target classes, and one evaluator per teacher.
pub struct BatchObjective {
    /// Target classes, int64 `[N]`.
    targets: Tensor,
    /// One per teacher.
    evaluators: Vec<Evaluator>,
}

enum Evaluator {
    Plan(Box<SynthesisPlan>),
    /// For patch statistics, which a plan does not support.
    Replica(Replica, Objective),
}

impl<'a> TeacherCommittee<'a> {
    /// A committee of the recovery's own teacher `bundle` and the teachers that `config.committee`
    /// names.
    ///
    /// # Errors
    /// When a bundle lacks the statistics or the classifier that the loss needs, or does not fit
    /// the first bundle.
    pub fn new(
        bundle: &'a Bundle,
        others: &[&'a Bundle],
        config: &'a RecoverConfig,
        balances: &[f64],
        options: PlanOptions,
    ) -> Result<Self, RecoverError> {
        let committee = config.committee.as_ref();
        let weights = committee.map_or(&[][..], |c| &c.weights);
        let weights =
            if weights.is_empty() { vec![1.0; 1 + others.len()] } else { weights.to_vec() };
        let total: f64 = weights.iter().sum();
        let member = |(number, (member, weight)): (usize, (&'a Bundle, f64))| {
            let measured = || balances.get(number).copied();
            let r_bn = match config.r_bn {
                BnWeight::Fixed(weight) => Some(weight),
                BnWeight::Auto => measured(),
            };
            let not_balanced = || RecoverError::NotBalanced { teacher: member.name().into() };
            let r_bn = r_bn.ok_or_else(not_balanced)?;
            check(member, bundle, config, r_bn)?;
            let plans = PlanCache::new(member.graph.clone(), options.clone());
            Ok(CommitteeMember {
                bundle: member,
                r_bn,
                plans,
                device: options.device,
                weight: weight / total,
            })
        };
        let bundles = [bundle].into_iter().chain(others.iter().copied());
        let members =
            bundles.zip(weights).enumerate().map(member).collect::<Result<_, RecoverError>>()?;
        Ok(Self {
            members,
            config,
            turn: committee.map_or(Turn::RoundRobin, |c| c.turn),
            device: options.device,
        })
    }

    /// The objective of a batch of these `classes`, one per image; `seen` `[N, C, H, W]` is the
    /// batch's first view.
    ///
    /// # Errors
    /// When a teacher can't be run, or libtorch fails.
    pub fn objective(
        &self,
        classes: &[u32],
        seen: &Array4<f32>,
    ) -> Result<BatchObjective, RecoverError> {
        let targets: Vec<i64> = classes.iter().map(|&class| i64::from(class)).collect();
        let targets = Tensor::from_slice(&targets).to_device(self.device);
        let evaluators = self
            .members
            .iter()
            .map(|member| member.evaluator(self.config, classes, seen, &targets));
        let evaluators = evaluators.collect::<Result<_, _>>()?;
        Ok(BatchObjective { targets, evaluators })
    }

    /// The moving averages of statistics: member, layer, mean and variance.
    pub fn statistics(&self, batch: &BatchObjective) -> Vec<(usize, usize, [Tensor; 2])> {
        let of_member = |(member, evaluator): (usize, &Evaluator)| {
            let averages = evaluator.momentum().averages().into_iter();
            averages.map(|(layer, parts)| (member, layer, parts)).collect::<Vec<_>>()
        };
        batch.evaluators.iter().enumerate().flat_map(of_member).collect()
    }

    /// Goes on with these moving averages of statistics.
    pub fn restore(&self, batch: &BatchObjective, statistics: &[(usize, usize, [Tensor; 2])]) {
        for (member, evaluator) in batch.evaluators.iter().enumerate() {
            let own = statistics.iter().filter(|(of, ..)| *of == member);
            let averages = own.map(|(_, layer, [mean, var])| {
                let place = |tensor: &Tensor| tensor.to_device(self.device);
                (*layer, [place(mean), place(var)])
            });
            evaluator.momentum().restore(averages);
        }
    }

    /// Keeps what can serve the next batch, unless that has other weights.
    pub fn keep(&self, batch: BatchObjective) {
        if self.config.weight_adjustment.is_some() {
            return;
        }
        for (member, evaluator) in self.members.iter().zip(batch.evaluators) {
            if let Evaluator::Plan(plan) = evaluator {
                member.plans.keep(*plan);
            }
        }
    }

    /// The loss of the views `seen` `[N, C, H, W]` at step `iteration`, and its gradient.
    ///
    /// # Errors
    /// When a teacher can't be run.
    pub fn evaluate(
        &self,
        seen: &Array4<f32>,
        batch: &mut BatchObjective,
        iteration: u32,
    ) -> Result<(Point, Array4<f32>), RecoverError> {
        if let Some(turn) = self.turn(iteration) {
            return self.members[turn].evaluate(
                seen,
                &batch.targets,
                &mut batch.evaluators[turn],
                iteration,
            );
        }
        let mut sum = Point { iteration, loss: 0.0, ce: 0.0, bn: 0.0, gradients: None };
        let mut gradient = Array4::zeros(seen.raw_dim());
        for (member, evaluator) in self.members.iter().zip(&mut batch.evaluators) {
            let (point, own) = member.evaluate(seen, &batch.targets, evaluator, iteration)?;
            sum.loss += member.weight * point.loss;
            sum.ce += member.weight * point.ce;
            sum.bn += member.weight * point.bn;
            gradient.scaled_add(member.weight as f32, &own);
        }
        Ok((sum, gradient))
    }

    /// The gradients of cross entropy and of the weighted statistics term that
    /// [`evaluate`](Self::evaluate) adds up. `None` if the loss lacks one of them.
    ///
    /// # Errors
    /// When a teacher can't be run.
    pub fn term_gradients(
        &self,
        seen: &Array4<f32>,
        batch: &mut BatchObjective,
        iteration: u32,
    ) -> Result<Option<[Array4<f32>; 2]>, RecoverError> {
        let turn = self.turn(iteration);
        let asked = self.members.iter().zip(&mut batch.evaluators).enumerate();
        let mut sums: Option<[Array4<f32>; 2]> = None;
        for (number, (member, evaluator)) in asked {
            if turn.is_some_and(|turn| turn != number) {
                continue;
            }
            let Some(own) = member.term_gradients(seen, &batch.targets, evaluator)? else {
                return Ok(None);
            };
            let weight = if turn.is_some() { 1.0 } else { member.weight as f32 };
            let sums = sums.get_or_insert_with(|| [(); 2].map(|()| Array4::zeros(seen.raw_dim())));
            sums.iter_mut().zip(&own).for_each(|(sum, own)| sum.scaled_add(weight, own));
        }
        Ok(sums)
    }

    /// The index of the only teacher of this step; `None` if all are asked.
    fn turn(&self, iteration: u32) -> Option<usize> {
        let alone = self.turn == Turn::RoundRobin || self.members.len() == 1;
        alone.then(|| iteration as usize % self.members.len())
    }
}

impl Evaluator {
    fn momentum(&self) -> &Momentum {
        match self {
            Evaluator::Plan(plan) => plan.momentum(),
            Evaluator::Replica(_, objective) => &objective.momentum,
        }
    }
}

impl CommitteeMember<'_> {
    fn torch(&self, source: TchError) -> RecoverError {
        RecoverError::Torch { teacher: self.bundle.name().into(), source }
    }

    fn replica(&self, source: ReplicaError) -> RecoverError {
        RecoverError::Replica { teacher: self.bundle.name().into(), source }
    }

    fn evaluator(
        &self,
        config: &RecoverConfig,
        classes: &[u32],
        seen: &Array4<f32>,
        targets: &Tensor,
    ) -> Result<Evaluator, RecoverError> {
        let device = self.device;
        let graph = match config.weight_adjustment {
            Some(adjustment) => adjusted(self.bundle, adjustment, seen, targets, device)?,
            None => self.bundle.graph.clone(),
        };
        let objective = alignment::objective(self.bundle, config, self.r_bn, classes, device)
            .map_err(|e| self.torch(e))?;
        if objective.layers.iter().any(|layer| layer.patches > 1) {
            return Ok(Evaluator::Replica(
                Replica::new(graph, device).map_err(|e| self.replica(e))?,
                objective,
            ));
        }
        let (n, c, h, w) = seen.dim();
        let shape = [n, c, h, w].map(|d| d as i64);
        let plan = match config.weight_adjustment {
            Some(_) => self.plans.compile(&graph, &objective, shape),
            None => self.plans.plan(&objective, shape),
        };
        Ok(Evaluator::Plan(Box::new(plan.map_err(|e| self.replica(e))?)))
    }

    /// The loss and gradient of one teacher. Without a classifier there is no cross entropy term,
    /// and the targets are not used.
    fn evaluate(
        &self,
        seen: &Array4<f32>,
        targets: &Tensor,
        evaluator: &mut Evaluator,
        iteration: u32,
    ) -> Result<(Point, Array4<f32>), RecoverError> {
        let input = self.input(seen)?;
        let targets = (!self.bundle.manifest.is_features_only()).then_some(targets);
        let found = match evaluator {
            Evaluator::Plan(plan) => plan.evaluate(&input, targets),
            Evaluator::Replica(replica, objective) => replica.evaluate(&input, targets, objective),
        };
        let found = found.map_err(|e| self.replica(e))?;
        let (loss, ce, bn) = (found.loss, found.ce, found.bn);
        Ok((Point { iteration, loss, ce, bn, gradients: None }, self.array(&found.gradient)?))
    }

    /// The gradients of cross entropy and of the weighted statistics term; `None` without a
    /// classifier or without statistics.
    fn term_gradients(
        &self,
        seen: &Array4<f32>,
        targets: &Tensor,
        evaluator: &mut Evaluator,
    ) -> Result<Option<[Array4<f32>; 2]>, RecoverError> {
        if self.bundle.manifest.is_features_only() || self.r_bn == 0.0 {
            return Ok(None);
        }
        let input = self.input(seen)?;
        let found = match evaluator {
            Evaluator::Plan(plan) => plan.term_gradients(&input, targets),
            Evaluator::Replica(replica, objective) => {
                replica.term_gradients(&input, targets, objective)
            }
        };
        let TermGradients { ce, bn } = found.map_err(|e| self.replica(e))?;
        Ok(Some([self.array(&ce)?, self.array(&bn)?]))
    }

    fn input(&self, seen: &Array4<f32>) -> Result<Tensor, RecoverError> {
        let input = to_tensor(seen.view()).and_then(|t| t.f_to_device(self.device));
        input.map_err(|source| self.torch(source))
    }

    fn array(&self, gradient: &Tensor) -> Result<Array4<f32>, RecoverError> {
        let array = to_array(gradient).map_err(|source| self.torch(source))?;
        array.into_dimensionality().map_err(|shape| self.torch(TchError::Shape(shape.to_string())))
    }
}

/// Checks that the bundle supports the loss, and that its preprocessing equals that of the `first`
/// one.
fn check(
    bundle: &Bundle,
    first: &Bundle,
    config: &RecoverConfig,
    r_bn: f64,
) -> Result<(), RecoverError> {
    if let Some(why) = bundle.without_statistics().filter(|_| r_bn > 0.0) {
        return Err(RecoverError::NoStatistics { teacher: bundle.name().into(), why });
    }
    if config.class_share > 0.0 && bundle.layers.iter().any(|layer| layer.per_class.is_none()) {
        return Err(RecoverError::NoClassStatistics { teacher: bundle.name().into() });
    }
    let missing = |layer: &LayerStatistics| {
        layer
            .patches
            .as_ref()
            .is_none_or(|patches| config.class_share > 0.0 && patches.per_class.is_none())
    };
    if config.r_patch > 0.0 && bundle.layers.iter().any(missing) {
        return Err(RecoverError::NoPatchStatistics { teacher: bundle.name().into() });
    }
    if let Some(why) = bundle.without_classifier().filter(|_| config.weight_adjustment.is_some()) {
        return Err(RecoverError::NoAdjustment { teacher: bundle.name().into(), why });
    }
    if let Some(why) = bundle.without_classifier().filter(|_| r_bn == 0.0) {
        return Err(RecoverError::NoLoss { why });
    }
    let (own, other) = (&bundle.manifest.preprocessing, &first.manifest.preprocessing);
    if bundle.image_shape() != first.image_shape()
        || (&own.mean, &own.std) != (&other.mean, &other.std)
    {
        return Err(RecoverError::Unlike {
            teacher: bundle.name().into(),
            first: first.name().into(),
        });
    }
    Ok(())
}
