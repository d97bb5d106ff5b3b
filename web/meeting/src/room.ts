/** What the server says about the room whose page this is, in the `plenum-room` meta element of the page. */
import * as v from "valibot";

const Room = v.object({
  roomName: v.string(),
  /** Whoever comes with `?name=` goes straight in. */
  autoJoin: v.optional(v.boolean(), false),
  /** Whether a join has a chance now. The server decides again at the join itself. */
  state: v.picklist(["open", "notFound", "expired", "notYet", "private", "password"]),
  /** With `notYet`: when the room opens, in unix seconds. */
  opensAtUnixSec: v.optional(v.number()),
});

export type Room = v.InferOutput<typeof Room>;

/** Reads the room from the page. Without the element (a page served by the build tool) the address names it. */
export function readRoom(page: Document, address: Location): Room {
  const content = page.querySelector<HTMLMetaElement>('meta[name="plenum-room"]')?.content;
  if (content !== undefined) {
    return v.parse(Room, JSON.parse(content));
  }
  return { roomName: decodeURIComponent(address.pathname.slice(1)), autoJoin: false, state: "open" };
}
