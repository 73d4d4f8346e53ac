//! The variables of a network, under TensorFlow's names.

use tch::Tensor;

use super::frame::Layout;

/// What a variable is for. This decides its initial value and whether it is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Weights of a dense layer or a convolution.
    Kernel,
    /// What a dense layer or a convolution adds to each output channel.
    Bias,
    /// Batch norm's scale.
    Gamma,
    /// Batch norm's shift.
    Beta,
    /// Batch norm's running mean, which is not trained.
    MovingMean,
    /// Batch norm's running variance, which is not trained.
    MovingVariance,
}

impl Role {
    /// Whether the optimizer trains variables of this role.
    pub fn is_trainable(self) -> bool {
        !matches!(self, Self::MovingMean | Self::MovingVariance)
    }
}

/// A layer's kernel and bias as variables.
pub(super) fn kernel_and_bias(
    layer: &str,
    (kernel, weight): (Layout, &Tensor),
    (bias, values): (Layout, &Tensor),
) -> Vec<Variable> {
    vec![
        Variable::new(layer, "weight", Role::Kernel, kernel, weight),
        Variable::new(layer, "bias", Role::Bias, bias, values),
    ]
}

/// One variable: its names in TensorFlow and `tch`, its layout, and the live tensor in the mirrored frame.
#[derive(Debug)]
pub struct Variable {
    /// TensorFlow's name within its network, such as `conv2d_transpose_1/kernel`.
    pub tf_name: String,
    /// The `tch` variable store's name, such as `conv2d_transpose_1.weight`.
    pub torch_name: String,
    /// What it is for.
    pub role: Role,
    /// How it maps between TensorFlow's upright frame and the mirrored frame.
    pub layout: Layout,
    /// The tensor. It shares its memory with the network's, so writing to it changes the network.
    pub tensor: Tensor,
}

impl Variable {
    pub(super) fn new(
        layer: &str,
        torch_name: &str,
        role: Role,
        layout: Layout,
        tensor: &Tensor,
    ) -> Self {
        let tf_name = match role {
            Role::Kernel => "kernel",
            Role::Bias => "bias",
            Role::Gamma => "gamma",
            Role::Beta => "beta",
            Role::MovingMean => "moving_mean",
            Role::MovingVariance => "moving_variance",
        };
        Self {
            tf_name: format!("{layer}/{tf_name}"),
            torch_name: format!("{layer}.{torch_name}"),
            role,
            layout,
            tensor: tensor.shallow_clone(),
        }
    }
}
