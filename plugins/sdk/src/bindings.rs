//! The generated bindings: one world for methods, one for tasks, with what both
//! import shared.

pub mod method {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "method-plugin",
        pub_export_macro: true,
        default_bindings_module: "plugin_sdk::bindings::method",
    });
}

pub mod task {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "task-plugin",
        pub_export_macro: true,
        default_bindings_module: "plugin_sdk::bindings::task",
        with: {
            "peft:plugin/report@0.1.0": crate::bindings::method::peft::plugin::report,
            "peft:plugin/settings@0.1.0": crate::bindings::method::peft::plugin::settings,
            "peft:plugin/graph@0.1.0": crate::bindings::method::peft::plugin::graph,
        },
    });
}
