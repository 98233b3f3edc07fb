//! Where the values of a graph lie: on the replica's device, or as shapes, axes and other numbers
//! that operators read in the program's memory. It follows from the graph alone, so that constants
//! are copied once to where nodes want them, and not at each run. On the CPU both are one place,
//! but the copies are decided on, and counted, likewise.

use tch::{Device, TchError, Tensor};

use super::ops::{Use, usage};
use crate::transfer;
use scdd_graph::{Graph, Node, ValueId};

pub struct Places {
    device: Device,
    /// Per value, whether it lies on the device.
    on_device: Vec<bool>,
    /// Copies of constants on the other side, for the nodes that want them there.
    copies: Vec<Option<Tensor>>,
}

impl Places {
    /// Inputs and floating-point constants lie on `device`, and so does what is computed from them.
    /// Other constants, and what is computed from them or from shapes, lie in the program's memory.
    pub fn new(graph: &Graph, device: Device) -> Self {
        let count = graph.values.len();
        let mut copies = Vec::new();
        copies.resize_with(count, || None);
        let mut places = Self { device, on_device: vec![false; count], copies };
        for (&id, constant) in &graph.constants {
            places.on_device[id] = constant.dtype.is_float();
        }
        graph.inputs.iter().for_each(|input| places.on_device[input.value] = true);
        for node in &graph.nodes {
            let computes = places.computes(node);
            node.outputs.iter().flatten().for_each(|&id| places.on_device[id] = computes);
        }
        places
    }

    /// The constant's place.
    pub fn of(&self, id: ValueId) -> Device {
        if self.on_device[id] { self.device } else { Device::Cpu }
    }

    /// A clone that shares the tensors.
    pub fn shallow_clone(&self) -> Self {
        let copies = self.copies.iter().map(|t| t.as_ref().map(Tensor::shallow_clone)).collect();
        Self { device: self.device, on_device: self.on_device.clone(), copies }
    }

    /// Copies the `constants` that `node` wants elsewhere, for all later runs.
    pub fn settle(&mut self, node: &Node, constants: &[Option<Tensor>]) -> Result<(), TchError> {
        for (id, on_device) in self.wanted(node).collect::<Vec<_>>() {
            if let Some(constant) = constants[id].as_ref().filter(|_| self.copies[id].is_none())
                && self.on_device[id] != on_device
            {
                self.copies[id] = Some(self.moved(constant, on_device)?);
            }
        }
        Ok(())
    }

    /// Forgets the copy of a constant that was replaced.
    pub fn forget(&mut self, id: ValueId) {
        self.copies[id] = None;
    }

    /// The inputs of `node` where it wants them. `find` gives them where they lie.
    pub fn inputs<'t>(
        &self,
        node: &Node,
        find: impl Fn(ValueId) -> Option<&'t Tensor>,
    ) -> Result<Vec<Option<Tensor>>, TchError> {
        let mut wanted = self.wanted(node);
        let bring = |input: &Option<ValueId>| {
            let Some((id, on_device)) = input.and_then(|_| wanted.next()) else { return Ok(None) };
            let Some(tensor) = find(id) else { return Ok(None) };
            Ok(Some(match &self.copies[id] {
                _ if self.on_device[id] == on_device => tensor.shallow_clone(),
                Some(copy) => copy.shallow_clone(),
                None => self.moved(tensor, on_device)?,
            }))
        };
        node.inputs.iter().map(bring).collect()
    }

    /// The present inputs of `node` in their order, and whether it wants them on the device.
    fn wanted<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = (ValueId, bool)> + 'a {
        let computes = self.computes(node);
        let inputs = node.inputs.iter().enumerate();
        inputs.filter_map(move |(index, input)| {
            let id = (*input)?;
            let on_device = match usage(&node.op, index) {
                Use::Data => computes,
                Use::Numbers => false,
                Use::Outline => self.on_device[id],
            };
            Some((id, on_device))
        })
    }

    /// Whether `node` computes on the device: where any of its data lies there.
    fn computes(&self, node: &Node) -> bool {
        let is_there = |(index, input): (usize, &Option<ValueId>)| {
            usage(&node.op, index) == Use::Data && input.is_some_and(|id| self.on_device[id])
        };
        node.inputs.iter().enumerate().any(is_there)
    }

    fn moved(&self, tensor: &Tensor, to_device: bool) -> Result<Tensor, TchError> {
        if to_device { transfer::send(tensor, self.device) } else { transfer::fetch(tensor) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Mode, Replica};
    use super::*;
    use crate::synthesis::{Objective, PlanOptions, SynthesisPlan};
    use scdd_graph::ops::{Binary, Layout, Linear, ShapeOp};
    use scdd_graph::{Constant, Input, Op};
    use tch::Kind;

    /// A graph of one input, node by node.
    struct Builder(Graph);

    impl Builder {
        fn new() -> (Self, ValueId) {
            let mut builder = Self(Graph {
                opset: 20,
                values: Vec::new(),
                constants: Default::default(),
                inputs: Vec::new(),
                outputs: Vec::new(),
                nodes: Vec::new(),
                warnings: Vec::new(),
            });
            let x = builder.value();
            builder.0.inputs.push(Input { value: x, dtype: None, dims: None });
            (builder, x)
        }

        fn value(&mut self) -> ValueId {
            self.0.values.push(format!("v{}", self.0.values.len()));
            self.0.values.len() - 1
        }

        fn numbers(&mut self, dims: &[usize], values: &[i64]) -> ValueId {
            let id = self.value();
            self.0.constants.insert(id, Constant::from_i64s(dims, values));
            id
        }

        fn node(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
            let out = self.value();
            let inputs = inputs.iter().map(|&id| Some(id)).collect();
            let name = format!("n{}", self.0.nodes.len());
            let (op_type, outputs) = (name.clone(), vec![Some(out)]);
            self.0.nodes.push(Node { name, op_type, op, inputs, outputs });
            out
        }

        fn finish(mut self, out: ValueId) -> Arc<Graph> {
            self.0.outputs = vec![out];
            Arc::new(self.0)
        }
    }

    /// `x` `[N, 4, 1, 1]` → `[N, 4]`: columns picked by a constant, some exchanged by a constant
    /// mask, and picked again by numbers that are computed from the shape of `x`.
    fn graph() -> Arc<Graph> {
        let (mut graph, x) = Builder::new();
        let order = graph.numbers(&[4], &[3, 2, 1, 0]);
        let gather = || Op::Layout(Layout::Gather { axis: 1 });
        let picked = graph.node(gather(), &[x, order]);
        let (one, mask) = (graph.numbers(&[], &[1]), graph.numbers(&[4, 1, 1], &[1, 0, 1, 0]));
        let mask = graph.node(Op::Binary(Binary::Equal), &[mask, one]);
        let masked = graph.node(Op::Binary(Binary::Where), &[mask, picked, x]);
        let shape = graph.node(Op::Shape(ShapeOp::Shape { start: 0, end: None }), &[x]);
        let [zero, last] = [graph.numbers(&[], &[0]), graph.numbers(&[], &[1])];
        let width = graph.node(Op::Layout(Layout::Gather { axis: 0 }), &[shape, last]);
        let range = graph.node(Op::Shape(ShapeOp::Range), &[zero, width, one]);
        let again = graph.node(gather(), &[masked, range]);
        let out = graph.node(Op::Layout(Layout::Reshape { allow_zero: false }), &[again, shape]);
        let out = graph.node(Op::Layout(Layout::Flatten { axis: 1 }), &[out]);
        graph.finish(out)
    }

    fn input() -> Tensor {
        Tensor::arange(8, (Kind::Float, Device::Cpu)).reshape([2, 4, 1, 1])
    }

    fn crossing<T>(what: impl FnOnce() -> T) -> (usize, T) {
        let before = transfer::count();
        let made = what();
        (transfer::count() - before, made)
    }

    #[test]
    fn constants_cross_once_and_computed_numbers_at_each_run() {
        // The order; the mask and the numbers beside it are computed in the program's memory.
        let (sent, replica) = crossing(|| Replica::new(graph(), Device::Cpu).unwrap());
        assert_eq!(sent, 1);
        for _ in 0..2 {
            let (sent, run) =
                crossing(|| replica.run(&[input()], &[], Mode::Eval).unwrap().outputs);
            // The mask and the range.
            assert_eq!(sent, 2);
            let expected = [3.0, 1.0, 1.0, 3.0, 7.0, 5.0, 5.0, 7.0];
            assert_eq!(run[0], Tensor::from_slice(&expected).to_kind(Kind::Float).reshape([2, 4]));
        }
    }

    #[test]
    fn a_plan_sends_nothing_at_an_evaluation() {
        let compile = || {
            let (graph, objective) = (graph(), Objective::cross_entropy());
            // Kernels would run, and count, on other threads.
            let options = PlanOptions { kernels: None, ..PlanOptions::default() };
            SynthesisPlan::compile(&graph, &objective, [2, 4, 1, 1], options).unwrap()
        };
        let (sent, mut plan) = crossing(compile);
        assert!(sent >= 3, "{sent}");
        let targets = Tensor::from_slice(&[0i64, 2]);
        for _ in 0..2 {
            let (sent, found) = crossing(|| plan.evaluate_unread(&input(), Some(&targets)));
            assert_eq!((sent, found.unwrap().gradient.size()), (0, vec![2, 4, 1, 1]));
        }
    }

    #[test]
    fn numbers_that_are_read_stay_where_they_are_read() {
        let (mut graph, x) = Builder::new();
        let shape = graph.numbers(&[4], &[1, 1, 1, 8]);
        let turned = graph.node(Op::Layout(Layout::Reshape { allow_zero: false }), &[x, shape]);
        let product = graph.node(Op::Linear(Linear::MatMul), &[x, turned]);
        let graph = graph.finish(product);
        let (sent, replica) = crossing(|| Replica::new(graph, Device::Cpu).unwrap());
        let (read, _) = crossing(|| replica.run(&[input()], &[], Mode::Eval).unwrap());
        assert_eq!((sent, read), (0, 0));
    }
}
