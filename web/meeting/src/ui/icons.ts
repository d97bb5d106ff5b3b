/** The icons in use, from Lucide. All are decoration: what they mean is also said in words. */
import {
  CalendarX2,
  Check,
  Clock,
  createElement,
  DoorClosed,
  type IconNode,
  Link,
  Lock,
  LogOut,
  MessageSquare,
  Mic,
  MicOff,
  Moon,
  RotateCw,
  SearchX,
  Send,
  Sun,
  TriangleAlert,
  Users,
  UserX,
  Video,
  VideoOff,
  Volume2,
  WifiOff,
  X,
} from "lucide";

const nodes = {
  calendar: CalendarX2,
  camera: Video,
  cameraOff: VideoOff,
  chat: MessageSquare,
  check: Check,
  clock: Clock,
  close: X,
  closed: DoorClosed,
  leave: LogOut,
  link: Link,
  lock: Lock,
  microphone: Mic,
  microphoneOff: MicOff,
  moon: Moon,
  offline: WifiOff,
  people: Users,
  removed: UserX,
  retry: RotateCw,
  search: SearchX,
  send: Send,
  sound: Volume2,
  sun: Sun,
  warning: TriangleAlert,
} satisfies Record<string, IconNode>;

export type IconName = keyof typeof nodes;

/** An icon of 16, 20 or 22 px. */
export function icon(name: IconName, size: 16 | 20 | 22 | 30 = 20): SVGElement {
  return createElement(nodes[name], {
    class: "icon",
    width: size,
    height: size,
    "stroke-width": size <= 16 ? 2 : 1.75,
    "aria-hidden": "true",
  });
}
