//! `plenum room`

use anyhow::Context;

use super::{Table, minute, no_app, say, storage::Opened};
use crate::{
    apps::{self, AppName},
    config::Storage,
    db::Db,
    meetings,
    rooms::{self, Filter, Page, Room},
};

/// `plenum room …`
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List rooms, the newest first.
    #[command(after_long_help = LIST_HELP)]
    List {
        /// Of this app alone; without it, of each app.
        #[arg(long, value_name = "NAME")]
        app: Option<AppName>,
        /// How many at most, of each app: 1 to 1000.
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
        #[command(flatten)]
        storage: Storage,
    },
}

const LIST_HELP: &str = "\
A line has the room's app and name, who may join, how many people are in it now, when it was made and
when it expires (UTC), and its id.

Examples:
  plenum room list
  plenum room list --app acme --limit 20";

/// A room, as it is listed.
struct Listed {
    app: AppName,
    room: Room,
    people: i64,
}

pub async fn run(command: Command) -> anyhow::Result<()> {
    let Command::List {
        app,
        limit,
        storage,
    } = command;
    let Some(opened) = Opened::look(&storage).await? else {
        return app.map_or(Ok(()), |app| Err(anyhow::anyhow!(no_app(&app))));
    };
    let found = find(&opened.db(), app.as_ref(), limit).await;
    opened.close().await?;
    let (rooms, left) = found?;
    let mut table = Table::new([
        "APP", "ROOM", "PRIVACY", "PEOPLE", "CREATED", "EXPIRES", "ID",
    ]);
    for Listed { app, room, people } in rooms {
        table.row([
            app.to_string(),
            room.name.to_string(),
            room.rules.privacy.as_str().to_owned(),
            people.to_string(),
            minute(room.created_at),
            room.rules.expires_at().map_or("never".to_owned(), minute),
            room.id.to_string(),
        ]);
    }
    table.show()?;
    if left > 0 {
        say(format_args!(
            "and {left} more: --limit shows up to 1000 of each app"
        ))?;
    }
    Ok(())
}

/// The rooms to list, and how many there are besides.
async fn find(db: &Db, app: Option<&AppName>, limit: u16) -> anyhow::Result<(Vec<Listed>, i64)> {
    let mut conn = db.system().await?;
    let apps = match app {
        Some(name) => {
            let app = apps::find(&mut conn, name).await?;
            vec![app.with_context(|| no_app(name))?]
        }
        None => apps::list(&mut conn).await?,
    };
    drop(conn);
    let (mut listed, mut left) = (Vec::new(), 0);
    for app in apps {
        let mut tx = db.begin(app.id).await?;
        let page = Page {
            after: None,
            limit: limit.into(),
        };
        let rooms = rooms::list(&mut tx, app.id, &Filter::default(), page).await?;
        left +=
            rooms::count(&mut tx, app.id, &Filter::default()).await? - i64::try_from(rooms.len())?;
        let ids: Vec<_> = rooms.iter().map(|room| room.id).collect();
        let people = meetings::people_in(&mut tx, app.id, &ids).await?;
        listed.extend(rooms.into_iter().map(|room| Listed {
            app: app.name.clone(),
            people: people.get(&room.id).copied().unwrap_or_default(),
            room,
        }));
    }
    Ok((listed, left))
}
