package main
import (
"fmt"
"io/ioutil"
"log"
"net/http"
"strings"
)
func main() {
client := &http.Client{}
var data = strings.NewReader(`
{
"roomName": "string",
"privacy": "public",
"expireUnixSec": 0,
"ejectAtRoomExp": false,
"notBeforeUnixSec": 0,
"maxParticipants": 0,
"autoJoin": true,
"enableRequestToJoin": true,
"enableChat": true,
"enableScreenSharing": true,
"joinVideoOn": false,
"joinAudioOn": false,
"recordRoom": false,
"ejectAfterElapsedTimeInSec": 0,
"meetingJoinWebhook": "string",
"endMeetingAfterNoActivityInSec": 0,
"audioOnlyRoom": false
}
`)
req, err := http.NewRequest("POST", "https://appname.metered.live/api/v1/room?secretKey={replace_this_with_your_secretKey}", data)
if err != nil {
log.Fatal(err)
}
req.Header.Set("Accept", "application/json")
req.Header.Set("Content-Type", "application/json")
resp, err := client.Do(req)
if err != nil {
log.Fatal(err)
}
defer resp.Body.Close()
bodyText, err := ioutil.ReadAll(resp.Body)
if err != nil {
log.Fatal(err)
}
fmt.Printf("%s\n", bodyText)
}
