//! Graphs of operations as cuDNN is told them: the C ABI of its backend, opened at run time.

use crate::shim::TorchError;
use libloading::os::unix::Library;
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::OnceLock;
use tch::Tensor;

const NAME: &str = "libcudnn.so.9";
const ALIGNMENT_BYTES: i64 = 16;

// Numbers of cudnn_graph_v9.h: kinds of descriptors,
const POINTWISE: c_int = 0;
const ENGINE_CONFIGURATION: c_int = 3;
const HEURISTIC: c_int = 4;
const PLAN: c_int = 5;
const OPERATION_POINTWISE: c_int = 13;
const OPERATION_GRAPH: c_int = 15;
const VARIANT_PACK: c_int = 16;
const TENSOR: c_int = 17;
const MATMUL: c_int = 18;
const OPERATION_MATMUL: c_int = 19;
const REDUCTION: c_int = 21;
const OPERATION_REDUCTION: c_int = 22;
const OPERATION_RESHAPE: c_int = 31;
// their attributes,
const POINTWISE_MODE: c_int = 0;
const POINTWISE_DTYPE: c_int = 1;
const POINTWISE_DIMENSION: c_int = 9;
const HEURISTIC_MODE: c_int = 200;
const HEURISTIC_GRAPH: c_int = 201;
const HEURISTIC_RESULTS: c_int = 202;
const PLAN_HANDLE: c_int = 400;
const PLAN_ENGINE: c_int = 401;
const PLAN_WORKSPACE: c_int = 402;
const POINTWISE_RULE: c_int = 750;
/// The operands x, b and t.
const POINTWISE_OPERANDS: [c_int; 3] = [751, 752, 758];
const POINTWISE_Y: c_int = 753;
const GRAPH_HANDLE: c_int = 800;
const GRAPH_OPERATIONS: c_int = 801;
const TENSOR_ALIGNMENT: c_int = 900;
const TENSOR_DTYPE: c_int = 901;
const TENSOR_SIZES: c_int = 902;
const TENSOR_STRIDES: c_int = 903;
const TENSOR_ID: c_int = 906;
const TENSOR_IS_INSIDE: c_int = 907;
const TENSOR_IS_NUMBER: c_int = 908;
const PACK_IDS: c_int = 1000;
const PACK_POINTERS: c_int = 1001;
const PACK_WORKSPACE: c_int = 1003;
const MATMUL_DTYPE: c_int = 1500;
const MATMUL_A: c_int = 1520;
const MATMUL_B: c_int = 1521;
const MATMUL_Y: c_int = 1522;
const MATMUL_RULE: c_int = 1523;
const REDUCTION_MODE: c_int = 1600;
const REDUCTION_DTYPE: c_int = 1601;
const REDUCTION_X: c_int = 1610;
const REDUCTION_Y: c_int = 1611;
const REDUCTION_RULE: c_int = 1612;
const RESHAPE_X: c_int = 2200;
const RESHAPE_Y: c_int = 2201;
// the types of attributes,
const OF_HANDLE: c_int = 0;
const OF_DTYPE: c_int = 1;
const OF_BOOL: c_int = 2;
const OF_INT: c_int = 3;
const OF_POINTER: c_int = 6;
const OF_HEURISTIC: c_int = 8;
const OF_POINTWISE: c_int = 14;
const OF_DESCRIPTOR: c_int = 15;
const OF_REDUCTION: c_int = 18;
// and their values: dtypes, operations, and the heuristic that chooses engines.
pub(crate) const FLOAT32: c_int = 0;
const INT32: c_int = 4;
pub(crate) const BFLOAT16: c_int = 9;
const BOOLEAN: c_int = 11;
pub(crate) const MULTIPLY: c_int = 1;
pub(crate) const SUBTRACT: c_int = 9;
pub(crate) const EXPONENTIAL: c_int = 13;
pub(crate) const AT_LEAST: c_int = 303;
const INDEX: c_int = 501;
pub(crate) const SELECT: c_int = 601;
const ADD: c_int = 0;
const HEURISTIC_A: c_int = 3;

pub(crate) type Raw = *mut c_void;
pub(crate) type Result<T> = std::result::Result<T, TorchError>;

/// The functions that are used of cuDNN.
pub(crate) struct Cudnn {
    create_handle: unsafe extern "C" fn(*mut Raw) -> c_int,
    create: unsafe extern "C" fn(c_int, *mut Raw) -> c_int,
    destroy: unsafe extern "C" fn(Raw) -> c_int,
    finalize: unsafe extern "C" fn(Raw) -> c_int,
    set: unsafe extern "C" fn(Raw, c_int, c_int, i64, *const c_void) -> c_int,
    get: unsafe extern "C" fn(Raw, c_int, c_int, i64, *mut i64, *mut c_void) -> c_int,
    execute: unsafe extern "C" fn(Raw, Raw, Raw) -> c_int,
}

impl Cudnn {
    /// The library that libtorch has loaded.
    pub(crate) fn get() -> Result<&'static Cudnn> {
        static CUDNN: OnceLock<std::result::Result<Cudnn, String>> = OnceLock::new();
        let opened = CUDNN.get_or_init(|| Cudnn::open().map_err(|error| error.to_string()));
        opened.as_ref().map_err(failed)
    }

    fn open() -> std::result::Result<Cudnn, libloading::Error> {
        // SAFETY: the library is open already; the signatures are those of its headers.
        unsafe {
            let library: &'static Library = Box::leak(Box::new(Library::new(NAME)?));
            Ok(Cudnn {
                create_handle: *library.get(b"cudnnCreate")?,
                create: *library.get(b"cudnnBackendCreateDescriptor")?,
                destroy: *library.get(b"cudnnBackendDestroyDescriptor")?,
                finalize: *library.get(b"cudnnBackendFinalize")?,
                set: *library.get(b"cudnnBackendSetAttribute")?,
                get: *library.get(b"cudnnBackendGetAttribute")?,
                execute: *library.get(b"cudnnBackendExecute")?,
            })
        }
    }

    /// A handle on the current device and its default stream, for one thread. It lives as long as
    /// the process.
    pub(crate) fn handle(&self) -> Result<Raw> {
        let mut handle = null_mut();
        // SAFETY: the pointer is to a handle that lives through the call.
        check("cudnnCreate", unsafe { (self.create_handle)(&mut handle) })?;
        Ok(handle)
    }
}

pub(crate) fn failed(message: impl ToString) -> TorchError {
    TorchError {
        call: "cuDNN",
        message: message.to_string(),
    }
}

fn check(what: &str, status: c_int) -> Result<()> {
    if status == 0 {
        return Ok(());
    }
    Err(failed(format!("{what}: status {status}")))
}

/// A descriptor of cuDNN's: a tensor, an operation, a plan.
pub(crate) struct Descriptor {
    cudnn: &'static Cudnn,
    raw: Raw,
}

impl Descriptor {
    fn new(cudnn: &'static Cudnn, kind: c_int) -> Result<Descriptor> {
        let mut raw = null_mut();
        // SAFETY: the pointer is to a handle that lives through the call.
        let status = unsafe { (cudnn.create)(kind, &mut raw) };
        check("cudnnBackendCreateDescriptor", status)?;
        Ok(Descriptor { cudnn, raw })
    }

    /// Sets an attribute, whose values are of the type that `kind` names.
    fn set<T>(self, name: c_int, kind: c_int, values: &[T]) -> Result<Descriptor> {
        let (count, values) = (values.len() as i64, values.as_ptr().cast());
        // SAFETY: the values live through the call, which copies them.
        let status = unsafe { (self.cudnn.set)(self.raw, name, kind, count, values) };
        check(&format!("attribute {name} of cuDNN's"), status)?;
        Ok(self)
    }

    fn finalized(self) -> Result<Descriptor> {
        // SAFETY: the descriptor lives.
        check("cudnnBackendFinalize", unsafe {
            (self.cudnn.finalize)(self.raw)
        })?;
        Ok(self)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once. An error has no one to go to.
        let _ = unsafe { (self.cudnn.destroy)(self.raw) };
    }
}

/// Sizes and strides of a tensor of four dimensions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub sizes: [i64; 4],
    strides: [i64; 4],
}

impl Layout {
    pub(crate) fn of(tensor: &Tensor) -> Result<Layout> {
        let four = |values: Vec<i64>| values.try_into().map_err(|_| failed("not four dimensions"));
        Ok(Layout {
            sizes: four(tensor.size())?,
            strides: four(tensor.stride())?,
        })
    }

    pub(crate) fn dense([a, b, c, d]: [i64; 4]) -> Layout {
        Layout {
            sizes: [a, b, c, d],
            strides: [b * c * d, c * d, d, 1],
        }
    }

    /// The last two dimensions exchanged.
    pub(crate) fn transposed(self) -> Layout {
        let exchanged = |[a, b, c, d]: [i64; 4]| [a, b, d, c];
        Layout {
            sizes: exchanged(self.sizes),
            strides: exchanged(self.strides),
        }
    }
}

/// The memory that holds a tensor of a graph.
pub(crate) enum Place {
    /// The caller's, on the device.
    Memory,
    /// None of the caller's.
    Inside,
    /// The host's, for a number.
    Host,
}

/// A tensor of a graph, by the number that cuDNN knows it by, from 1 on.
#[derive(Clone, Copy, Default)]
pub(crate) struct Node(usize);

/// Operations as they are described to cuDNN.
pub(crate) struct Graph {
    cudnn: &'static Cudnn,
    tensors: Vec<Descriptor>,
    operations: Vec<Descriptor>,
    kept: Vec<Descriptor>,
}

impl Graph {
    pub(crate) fn new(cudnn: &'static Cudnn) -> Graph {
        Graph {
            cudnn,
            tensors: Vec::new(),
            operations: Vec::new(),
            kept: Vec::new(),
        }
    }

    pub(crate) fn tensor(&mut self, layout: Layout, kind: c_int, place: Place) -> Result<Node> {
        let id = self.tensors.len() as i64 + 1;
        let tensor = Descriptor::new(self.cudnn, TENSOR)?
            .set(TENSOR_DTYPE, OF_DTYPE, &[kind])?
            .set(TENSOR_SIZES, OF_INT, &layout.sizes)?
            .set(TENSOR_STRIDES, OF_INT, &layout.strides)?
            .set(TENSOR_ID, OF_INT, &[id])?
            .set(TENSOR_ALIGNMENT, OF_INT, &[ALIGNMENT_BYTES])?
            .set(TENSOR_IS_INSIDE, OF_BOOL, &[matches!(place, Place::Inside)])?
            .set(TENSOR_IS_NUMBER, OF_BOOL, &[matches!(place, Place::Host)])?
            .finalized()?;
        self.tensors.push(tensor);
        Ok(Node(self.tensors.len()))
    }

    pub(crate) fn number(&mut self) -> Result<Node> {
        self.tensor(Layout::dense([1; 4]), FLOAT32, Place::Host)
    }

    fn raw(&self, Node(id): Node) -> Raw {
        self.tensors[id - 1].raw
    }

    /// Adds an operation of this kind on tensors, each by its attribute; `rule`, by its attribute,
    /// says what the operation does.
    fn add(
        &mut self,
        kind: c_int,
        rule: Option<(c_int, Descriptor)>,
        tensors: &[(c_int, Node)],
    ) -> Result<()> {
        let mut operation = Descriptor::new(self.cudnn, kind)?;
        if let Some((name, rule)) = rule {
            let rule = rule.finalized()?;
            operation = operation.set(name, OF_DESCRIPTOR, &[rule.raw])?;
            self.kept.push(rule);
        }
        for &(name, node) in tensors {
            operation = operation.set(name, OF_DESCRIPTOR, &[self.raw(node)])?;
        }
        self.operations.push(operation.finalized()?);
        Ok(())
    }

    /// A tensor in no memory that is the caller's.
    pub(crate) fn inside(&mut self, layout: Layout, kind: c_int) -> Result<Node> {
        self.tensor(layout, kind, Place::Inside)
    }

    /// y = a b.
    pub(crate) fn matmul(&mut self, a: Node, b: Node, y: Node) -> Result<()> {
        let rule = Descriptor::new(self.cudnn, MATMUL)?.set(MATMUL_DTYPE, OF_DTYPE, &[FLOAT32])?;
        let tensors = [(MATMUL_A, a), (MATMUL_B, b), (MATMUL_Y, y)];
        self.add(OPERATION_MATMUL, Some((MATMUL_RULE, rule)), &tensors)
    }

    /// What this operation makes of its operands, number by number.
    pub(crate) fn pointwise(&mut self, mode: c_int, of: &[Node], layout: Layout) -> Result<Node> {
        let kind = if mode == AT_LEAST { BOOLEAN } else { FLOAT32 };
        let y = self.inside(layout, kind)?;
        let rule = self.rule(mode, kind)?;
        self.apply(rule, of, y)?;
        Ok(y)
    }

    /// y = a b, number by number.
    pub(crate) fn multiply(&mut self, a: Node, b: Node, y: Node) -> Result<()> {
        let rule = self.rule(MULTIPLY, FLOAT32)?;
        self.apply(rule, &[a, b], y)
    }

    /// The index of each number of x in this dimension.
    pub(crate) fn index(&mut self, dimension: i64, x: Node, layout: Layout) -> Result<Node> {
        let y = self.inside(layout, INT32)?;
        let rule = self.rule(INDEX, FLOAT32)?;
        let rule = rule.set(POINTWISE_DIMENSION, OF_INT, &[dimension])?;
        self.apply(rule, &[x], y)?;
        Ok(y)
    }

    fn rule(&self, mode: c_int, kind: c_int) -> Result<Descriptor> {
        Descriptor::new(self.cudnn, POINTWISE)?
            .set(POINTWISE_MODE, OF_POINTWISE, &[mode])?
            .set(POINTWISE_DTYPE, OF_DTYPE, &[kind])
    }

    fn apply(&mut self, rule: Descriptor, operands: &[Node], y: Node) -> Result<()> {
        let names = POINTWISE_OPERANDS.into_iter();
        let mut tensors: Vec<_> = names.zip(operands.iter().copied()).collect();
        tensors.push((POINTWISE_Y, y));
        self.add(OPERATION_POINTWISE, Some((POINTWISE_RULE, rule)), &tensors)
    }

    /// Adds x over the dimensions in which y is smaller.
    pub(crate) fn sum(&mut self, x: Node, y: Node) -> Result<()> {
        let rule = Descriptor::new(self.cudnn, REDUCTION)?
            .set(REDUCTION_DTYPE, OF_DTYPE, &[FLOAT32])?
            .set(REDUCTION_MODE, OF_REDUCTION, &[ADD])?;
        let tensors = [(REDUCTION_X, x), (REDUCTION_Y, y)];
        self.add(OPERATION_REDUCTION, Some((REDUCTION_RULE, rule)), &tensors)
    }

    /// The numbers of x in another order of dimensions.
    pub(crate) fn reshape(&mut self, x: Node, layout: Layout, kind: c_int) -> Result<Node> {
        let y = self.inside(layout, kind)?;
        self.add(OPERATION_RESHAPE, None, &[(RESHAPE_X, x), (RESHAPE_Y, y)])?;
        Ok(y)
    }

    /// The first plan for the graph that cuDNN's heuristic names and can carry out; `None` if there
    /// is none.
    pub(crate) fn plan(&self, handle: Raw) -> Result<Option<Plan>> {
        let cudnn = self.cudnn;
        let operations: Vec<Raw> = self.operations.iter().map(|one| one.raw).collect();
        let graph = Descriptor::new(cudnn, OPERATION_GRAPH)?
            .set(GRAPH_HANDLE, OF_HANDLE, &[handle])?
            .set(GRAPH_OPERATIONS, OF_DESCRIPTOR, &operations)?
            .finalized()?;
        let heuristic = Descriptor::new(cudnn, HEURISTIC)?
            .set(HEURISTIC_GRAPH, OF_DESCRIPTOR, &[graph.raw])?
            .set(HEURISTIC_MODE, OF_HEURISTIC, &[HEURISTIC_A])?
            .finalized()?;
        let mut count = 0;
        // SAFETY: the count lives through the call; no values are asked for.
        let status = unsafe {
            (cudnn.get)(
                heuristic.raw,
                HEURISTIC_RESULTS,
                OF_DESCRIPTOR,
                0,
                &mut count,
                null_mut(),
            )
        };
        check("number of engines", status)?;
        let configurations = (0..count).map(|_| Descriptor::new(cudnn, ENGINE_CONFIGURATION));
        let configurations = configurations.collect::<Result<Vec<_>>>()?;
        let mut raw: Vec<Raw> = configurations.iter().map(|one| one.raw).collect();
        let into = raw.as_mut_ptr().cast();
        // SAFETY: there are as many descriptors as the call is told, which it fills.
        let status = unsafe {
            (cudnn.get)(
                heuristic.raw,
                HEURISTIC_RESULTS,
                OF_DESCRIPTOR,
                count,
                &mut count,
                into,
            )
        };
        check("engines", status)?;
        for configuration in configurations.iter().take(count as usize) {
            let plan = Descriptor::new(cudnn, PLAN)?
                .set(PLAN_HANDLE, OF_HANDLE, &[handle])?
                .set(PLAN_ENGINE, OF_DESCRIPTOR, &[configuration.raw])?;
            if let Ok(plan) = plan.finalized() {
                return Ok(Some(Plan::of(plan, handle)?));
            }
        }
        Ok(None)
    }
}

/// How cuDNN carries a graph out.
pub(crate) struct Plan {
    plan: Descriptor,
    handle: Raw,
    /// Memory that it needs while it does.
    pub workspace_bytes: i64,
}

impl Plan {
    fn of(plan: Descriptor, handle: Raw) -> Result<Plan> {
        let (mut workspace_bytes, mut count) = (0i64, 0);
        let into = std::ptr::from_mut(&mut workspace_bytes).cast();
        // SAFETY: both integers live through the call.
        let status =
            unsafe { (plan.cudnn.get)(plan.raw, PLAN_WORKSPACE, OF_INT, 1, &mut count, into) };
        check("workspace", status)?;
        Ok(Plan {
            plan,
            handle,
            workspace_bytes,
        })
    }

    /// Carries the graph out on the default stream.
    ///
    /// # Safety
    /// Each address is of memory of the layout of its node, on the device or, of a number, in the
    /// host's memory; the workspace has the size that the plan asks for.
    pub(crate) unsafe fn run(&self, ends: &[(Node, Raw)], workspace: Raw) -> Result<()> {
        let ids: Vec<i64> = ends.iter().map(|(Node(id), _)| *id as i64).collect();
        let addresses: Vec<Raw> = ends.iter().map(|(_, address)| *address).collect();
        let cudnn = self.plan.cudnn;
        let pack = Descriptor::new(cudnn, VARIANT_PACK)?
            .set(PACK_IDS, OF_INT, &ids)?
            .set(PACK_POINTERS, OF_POINTER, &addresses)?
            .set(PACK_WORKSPACE, OF_POINTER, &[workspace])?
            .finalized()?;
        // SAFETY: the caller's promise.
        let status = unsafe { (cudnn.execute)(self.handle, self.plan.raw, pack.raw) };
        check("cudnnBackendExecute", status)
    }
}
