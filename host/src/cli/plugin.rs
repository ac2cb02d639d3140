//! `host plugin`: what is installed, and what its keys are.

use anyhow::{Context, Result, bail};
use comfy_table::{ContentArrangement, Table};
use host_ir::settings::{Setting, did_you_mean};

use super::arguments::PluginCommand;
use super::terminal;
use crate::cell::Plugin;
use crate::config::write::setting_value;
use crate::runs::table::PLAIN;
use crate::session;

pub fn plugin(command: &PluginCommand) -> Result<()> {
    match command {
        PluginCommand::List { plugins } => list(plugins.catalogue()?),
        PluginCommand::Show { name, plugins } => {
            let catalogue = plugins.catalogue()?;
            let Some(plugin) = catalogue.iter().find(|plugin| plugin.description.name == *name) else {
                let known: Vec<&str> =
                    catalogue.iter().map(|plugin| plugin.description.name.as_str()).collect();
                bail!("there is no plugin `{name}`{}", did_you_mean(name, &known));
            };
            terminal::print(&shown(plugin))
        }
        PluginCommand::Check { file } => {
            let plugin =
                session::inspect(file).with_context(|| format!("{} is no plugin", file.display()))?;
            terminal::print(&shown(&plugin))
        }
    }
}

fn list(mut catalogue: Vec<Plugin>) -> Result<()> {
    catalogue.sort_by_key(|plugin| plugin.kind);
    let mut table = Table::new();
    table.load_style(PLAIN).set_header(["", "name", "version", "where", "what"]);
    if let Some(width) = terminal::width() {
        table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width.min(u16::MAX.into()) as u16);
    }
    for plugin in &catalogue {
        let description = &plugin.description;
        table.add_row([
            plugin.kind.to_string(),
            description.name.clone(),
            description.version.clone(),
            plugin.origin.to_string(),
            description.summary.clone(),
        ]);
    }
    table.force_no_tty();
    terminal::print(&format!("{}\n", table.trim_fmt()))
}

/// A plugin with its keys, as they would be written in a config.
fn shown(plugin: &Plugin) -> String {
    let description = &plugin.description;
    let mut text = format!(
        "{} {}: {} plugin, {}\ndigest {}\n\n{}\n",
        description.name,
        description.version,
        plugin.kind,
        plugin.origin,
        plugin.digest,
        description.summary.trim()
    );
    if description.keys.is_empty() {
        text.push_str("\nIt has no keys.\n");
    }
    for declaration in &description.keys {
        let default = match &declaration.default {
            Setting::Absent => " (absent by default)".to_string(),
            setting => setting_value(setting).map_or(String::new(), |value| format!(" = {value}")),
        };
        text.push_str(&format!("\n{}{default}\n    {}\n", declaration.key, declaration.kind.words()));
        for line in declaration.documentation.trim().lines() {
            text.push_str(&format!("    {}\n", line.trim()));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use host_ir::settings::{Declaration, Description, SettingType};

    use super::*;
    use crate::cell::{Origin, PluginKind};

    #[test]
    fn keys_are_shown_as_they_are_written() {
        let key = |key: &str, kind, default| Declaration {
            key: key.into(),
            kind,
            default,
            documentation: "First line.\n  Second line.".into(),
        };
        let keys = vec![
            key("r", SettingType::Whole { minimum: 1, maximum: 64 }, Setting::Whole(8)),
            key("names", SettingType::Texts, Setting::Texts(vec!["a".into(), "b\"".into()])),
            key("text", SettingType::OptionalText, Setting::Absent),
        ];
        let summary = "A method.".into();
        let description = Description { name: "alpha".into(), version: "0.1.0".into(), summary, keys };
        let digest = "abc".into();
        let plugin = Plugin { kind: PluginKind::Method, description, digest, origin: Origin::Embedded };
        assert_eq!(
            shown(&plugin),
            "alpha 0.1.0: method plugin, embedded\ndigest abc\n\nA method.\n\
             \nr = 8\n    a whole number from 1 to 64\n    First line.\n    Second line.\n\
             \nnames = [\"a\", 'b\"']\n    a list of strings\n    First line.\n    Second line.\n\
             \ntext (absent by default)\n    a string\n    First line.\n    Second line.\n"
        );
    }
}
